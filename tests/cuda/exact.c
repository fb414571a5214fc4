// How many arguments give another result than the IEEE operation, if the approximation that a root or a quotient
// is made from is so many places off the rounded one: for PLACES of them at once, for what they share takes most of
// the time. Behind the polynomials of arithmetic.cuh, and #define PLACES.
#include <math.h>
#include <stdint.h>
#include <string.h>

static inline f32 of_bits(uint32_t b) {
    f32 x;
    memcpy(&x, &b, sizeof x);
    return x;
}
static inline uint32_t bits_of(f32 x) {
    uint32_t b;
    memcpy(&b, &x, sizeof b);
    return b;
}
#define HORNER(x, c) horner(x, c, sizeof c / sizeof *c)
static inline f32 horner(f32 x, const f32 *c, int n) {
    f32 p = c[0];
    for (int k = 1; k < n; k++) p = p * x + c[k];
    return p;
}

static inline void root(f32 x, const int *places, uint64_t *differing) {
    uint32_t nearest = bits_of((f32)(1 / sqrt((double)x)));
    f32 exact = sqrtf(x);
    for (int k = 0; k < PLACES; k++) {
        f32 r = of_bits(nearest + places[k]), y = x * r;
        differing[k] += fmaf(fmaf(-y, y, x), r * 0.5f, y) != exact;
    }
}

static inline void quotient(f32 n, f32 d, const int *places, uint64_t *differing) {
    uint32_t nearest = bits_of((f32)(1 / (double)d));
    f32 exact = n / d;
    for (int k = 0; k < PLACES; k++) {
        f32 r = of_bits(nearest + places[k]);
        r = fmaf(r, fmaf(-d, r, 1.0f), r);
        f32 q = n * r;
        differing[k] += fmaf(fmaf(-d, q, n), r, q) != exact;
    }
}

// Scaling by 4 changes nothing.
void roots(const int *places, uint64_t *differing) {
    for (uint32_t b = bits_of(1); b < bits_of(4); b++) root(of_bits(b), places, differing);
}

// Probabilities k / 2^31, k an odd integer up to 2^30, rounded: up to 2^24 of them, then every float.
void centre_quotients(const int *places, uint64_t *differing) {
    for (int e = 0; e < 30; e++) {
        uint32_t step = e < 23 ? 1u << (23 - e) : 1, end = bits_of(ldexpf(1, e - 30));
        for (uint32_t b = bits_of(ldexpf(1, e - 31)); b < end; b += step) {
            f32 d = of_bits(b), y = d - d * d;
            quotient(HORNER(y, CENTRE_P), HORNER(y, CENTRE_Q), places, differing);
        }
    }
    quotient(HORNER(0.25f, CENTRE_P), HORNER(0.25f, CENTRE_Q), places, differing);
}

void tail_quotients(const int *places, uint64_t *differing) {
    for (uint32_t b = bits_of(1); b < bits_of(16); b++) {
        f32 r = of_bits(b);
        quotient(HORNER(r, TAIL_P), HORNER(r, TAIL_Q), places, differing);
    }
}
