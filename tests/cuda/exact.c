// How many arguments give another result than the IEEE operation, if the approximation that a root or a quotient
// is made from is so many places off the rounded one. Behind the polynomials of arithmetic.cuh.
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

static inline int root_differs(f32 x, int places) {
    f32 r = of_bits(bits_of((f32)(1 / sqrt((double)x))) + places), y = x * r;
    return fmaf(fmaf(-y, y, x), r * 0.5f, y) != sqrtf(x);
}

static inline int quotient_differs(f32 n, f32 d, int places) {
    f32 r = of_bits(bits_of((f32)(1 / (double)d)) + places);
    r = fmaf(r, fmaf(-d, r, 1.0f), r);
    f32 q = n * r;
    return fmaf(fmaf(-d, q, n), r, q) != n / d;
}

// Scaling by 4 changes nothing.
uint64_t roots(int places) {
    uint64_t differing = 0;
    for (uint32_t b = bits_of(1); b < bits_of(4); b++) differing += root_differs(of_bits(b), places);
    return differing;
}

// Probabilities k / 2^31, k an odd integer up to 2^30, rounded: up to 2^24 of them, then every float.
uint64_t centre_quotients(int places) {
    uint64_t differing = 0;
    for (int e = 0; e < 30; e++) {
        uint32_t step = e < 23 ? 1u << (23 - e) : 1, end = bits_of(ldexpf(1, e - 30));
        for (uint32_t b = bits_of(ldexpf(1, e - 31)); b < end; b += step) {
            f32 d = of_bits(b), y = d - d * d;
            differing += quotient_differs(HORNER(y, CENTRE_P), HORNER(y, CENTRE_Q), places);
        }
    }
    return differing + quotient_differs(HORNER(0.25f, CENTRE_P), HORNER(0.25f, CENTRE_Q), places);
}

uint64_t tail_quotients(int places) {
    uint64_t differing = 0;
    for (uint32_t b = bits_of(1); b < bits_of(16); b++) {
        f32 r = of_bits(b);
        differing += quotient_differs(HORNER(r, TAIL_P), HORNER(r, TAIL_Q), places);
    }
    return differing;
}
