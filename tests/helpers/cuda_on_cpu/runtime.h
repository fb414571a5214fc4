// What translated PTX needs: register types, bit patterns of floats, and the operations that C lacks.
//
// A register holds bits; an instruction's type says how it reads them.
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef unsigned __int128 u128;
typedef int8_t s8;
typedef int16_t s16;
typedef int32_t s32;
typedef int64_t s64;
typedef __int128 s128;
typedef float f32;
typedef double f64;

union r1 { u8 u; };
union r16 { u16 u; s16 s; };
union r32 { u32 u; s32 s; f32 f; };
union r64 { u64 u; s64 s; f64 f; };

enum { MISALIGNED = 1, OUTSIDE = 2, DIVISION_BY_ZERO = 3 };

struct range {
    u64 first, end;
};

struct launch {
    u32 grid[3], block[3];
    const u8 *params;
    u64 param_bytes;
    const struct range *memory;
    u64 ranges;
    u32 kept;  // what is left of a subnormal's bits: all, or the sign
};

struct trap {
    u32 reason, instruction;
    u64 address;
    u32 tid[3], ctaid[3];
};

#define COPY_BITS(to, name, from)    \
    static inline to name(from x) {  \
        to y;                        \
        memcpy(&y, &x, sizeof y);    \
        return y;                    \
    }
COPY_BITS(f32, f32_of, u32)
COPY_BITS(u32, bits_of_f32, f32)
COPY_BITS(f64, f64_of, u64)
COPY_BITS(u64, bits_of_f64, f64)

// A subnormal becomes a zero of its sign.
static inline f32 flush(f32 x) {
    u32 b = bits_of_f32(x);
    return b & 0x7f800000u ? x : f32_of(b & 0x80000000u);
}

// The same for every operation, if the launch asks for it.
static inline f32 forced(const struct launch *launch, f32 x) {
    u32 b = bits_of_f32(x);
    return b & 0x7f800000u ? x : f32_of(b & launch->kept);
}

static inline int refused(const struct launch *launch, u64 address, u64 size) {
    if (address & (size - 1)) return MISALIGNED;
    for (u64 k = 0; k < launch->ranges; k++)
        if (address >= launch->memory[k].first && address <= launch->memory[k].end - size) return 0;
    return OUTSIDE;
}

static inline int refused_param(const struct launch *launch, u64 offset, u64 size) {
    if (offset & (size - 1)) return MISALIGNED;
    return offset > launch->param_bytes || size > launch->param_bytes - offset ? OUTSIDE : 0;
}

// Shift counts beyond the width empty the register, or fill it with the sign.
#define SHIFTS(n)                                                                                  \
    static inline u##n shl_##n(u##n a, u32 by) { return by < n ? (u##n)((u##n)a << by) : 0; }      \
    static inline u##n shr_u##n(u##n a, u32 by) { return by < n ? (u##n)(a >> by) : 0; }           \
    static inline u##n shr_s##n(u##n a, u32 by) { return (u##n)((s##n)a >> (by < n ? by : n - 1)); }
SHIFTS(16)
SHIFTS(32)
SHIFTS(64)

// Funnel shifts of high:low; `by` is already wrapped or clamped to 0..32.
static inline u32 funnel_left(u32 low, u32 high, u32 by) {
    return (u32)(((((u64)high << 32) | low) << by) >> 32);
}
static inline u32 funnel_right(u32 low, u32 high, u32 by) {
    return (u32)((((u64)high << 32) | low) >> by);
}
static inline u32 wrapped(u32 by) { return by & 31; }
static inline u32 clamped(u32 by) { return by < 32 ? by : 32; }

// Byte permutation, default mode: each selector nibble names a byte of b:a, its top bit asks for the sign.
static inline u32 prmt(u32 a, u32 b, u32 selector) {
    u64 bytes = ((u64)b << 32) | a;
    u32 result = 0;
    for (int k = 0; k < 4; k++) {
        u32 nibble = (selector >> (4 * k)) & 15;
        u32 byte = (u32)(bytes >> (8 * (nibble & 7))) & 255;
        if (nibble & 8) byte = byte & 128 ? 255 : 0;
        result |= byte << (8 * k);
    }
    return result;
}

// Position and length of bit fields are taken modulo 256; bits beyond the register are the sign's, or zero.
#define FIELDS(n)                                                                     \
    static inline u##n mask_##n(u32 length) {                                         \
        return length >= n ? (u##n)~(u##n)0 : (u##n)(((u##n)1 << length) - 1);        \
    }                                                                                 \
    static inline u##n bfe_u##n(u##n a, u32 position, u32 length) {                   \
        return shr_u##n(a, position & 255) & mask_##n(length & 255);                  \
    }                                                                                 \
    static inline u##n bfe_s##n(u##n a, u32 position, u32 length) {                   \
        position &= 255;                                                              \
        length &= 255;                                                                \
        if (length == 0) return 0;                                                    \
        u32 top = position + length - 1 < n ? position + length - 1 : n - 1;          \
        u##n sign = (a >> top) & 1 ? (u##n)~(u##n)0 : 0;                              \
        u##n mask = mask_##n(length);                                                 \
        u##n field = position < n ? (u##n)(a >> position) : 0;                        \
        u32 held = top + 1 > position ? top + 1 - position : 0;                       \
        u##n inside = mask_##n(held) & mask;                                          \
        return (field & inside) | (sign & ~inside);                                   \
    }                                                                                 \
    static inline u##n bfi_##n(u##n a, u##n b, u32 position, u32 length) {            \
        u##n mask = shl_##n(mask_##n(length & 255), position & 255);                  \
        return (shl_##n(a, position & 255) & mask) | (b & ~mask);                     \
    }
FIELDS(32)
FIELDS(64)

// The minimum of a NaN and a number is the number; -0 lies below +0.
#define EXTREMES(t)                                                         \
    static inline t min_##t(t a, t b) {                                     \
        if (a != a) return b;                                               \
        if (a == b) return signbit(a) ? a : b;                              \
        return b < a ? b : a;                                               \
    }                                                                       \
    static inline t max_##t(t a, t b) {                                     \
        if (a != a) return b;                                               \
        if (a == b) return signbit(a) ? b : a;                              \
        return b > a ? b : a;                                               \
    }
EXTREMES(f32)
EXTREMES(f64)

// Into [0, 1]; neither -0 nor a NaN comes out.
// The error of a sum rounded to nearest is exact (Knuth's TwoSum); where it points away from zero, one step back.
static inline f32 added_toward_zero(f32 a, f32 b) {
  const f32 s = a + b, part = s - a;
  const f32 error = (a - (s - part)) + (b - part);
  return f32_of(bits_of_f32(s) - (error != 0 && (error < 0) != (s < 0)));
}
// `rounded` or a float next to it, as the bits of x have it; zeros, infinities and NaN stay.
static inline f32 approximate(f32 x, f32 rounded) {
    u32 b = bits_of_f32(rounded) & 0x7fffffffu;
    return b == 0 || b >= 0x7f800000u ? rounded : f32_of(bits_of_f32(rounded) + bits_of_f32(x) * 0x9e3779b1u % 3 - 1);
}
static inline f32 saturated(f32 x) { return x > 0 ? (x < 1 ? x : 1) : 0; }

// A rounded double to an integer of n bits: the nearest end outside, `nan` for a NaN.
#define TO_INTEGERS(n, upper)                                               \
    static inline u##n to_s##n(f64 x, u##n nan) {                           \
        if (x != x) return nan;                                             \
        if (x >= upper / 2) return (u##n)~((u##n)1 << (n - 1));             \
        if (x < -upper / 2) return (u##n)1 << (n - 1);                      \
        return (u##n)(s##n)x;                                               \
    }                                                                       \
    static inline u##n to_u##n(f64 x, u##n nan) {                           \
        if (x != x) return nan;                                             \
        if (x >= upper) return (u##n)~(u##n)0;                              \
        return x > 0 ? (u##n)x : 0;                                         \
    }
TO_INTEGERS(32, 0x1p32)
TO_INTEGERS(64, 0x1p64)

static inline u16 f16_of_f32(f32 x) {
    _Float16 half = (_Float16)x;
    u16 b;
    memcpy(&b, &half, sizeof b);
    return x != x ? 0x7fff : b;
}
static inline f32 f32_of_f16(u16 b) {
    _Float16 half;
    memcpy(&half, &b, sizeof half);
    return (f32)half;
}
static inline u16 bf16_of_f32(f32 x) {
    u32 b = bits_of_f32(x);
    return x != x ? 0x7fff : (u16)((b + 0x7fffu + ((b >> 16) & 1)) >> 16);
}
static inline f32 f32_of_bf16(u16 b) { return f32_of((u32)b << 16); }

#define EXTREMES_OF_HALVES(t)                                                                                      \
    static inline u16 min_##t(u16 a, u16 b) { return t##_of_f32(min_f32(f32_of_##t(a), f32_of_##t(b))); }           \
    static inline u16 max_##t(u16 a, u16 b) { return t##_of_f32(max_f32(f32_of_##t(a), f32_of_##t(b))); }
EXTREMES_OF_HALVES(f16)
EXTREMES_OF_HALVES(bf16)

// To a type of 8 bits with so many mantissa bits and this least exponent, ties to even, saturated at `largest`.
static inline u8 byte_of_f32(f32 x, int mantissa, int least, u32 largest) {
    if (x != x) return 0x7f;
    u8 sign = bits_of_f32(x) >> 24 & 0x80;
    f64 magnitude = __builtin_fabs((f64)x);
    if (magnitude > 0x1p20) return sign | largest;
    int exponent = magnitude == 0 ? least : ilogb(magnitude);
    if (exponent < least) exponent = least;
    u32 code = ((u32)(exponent - least) << mantissa) + (u32)rint(ldexp(magnitude, mantissa - exponent));
    return sign | (code < largest ? code : largest);
}
static inline u8 e4m3_of_f32(f32 x) { return byte_of_f32(x, 3, -6, 0x7e); }
static inline u8 e5m2_of_f32(f32 x) { return byte_of_f32(x, 2, -14, 0x7b); }

// A thread on its way: registers of 8 bytes, each read by its width.
struct thread {
    const struct launch *launch;
    struct trap *trap;
    u8 *registers;
    u32 tid[3], ctaid[3];
    u8 carry;
};

// A step of a program: the address of an operation, then its words. The operation goes on with the step behind it,
// by a call in its own place, which takes half the time of a return; it returns the step to branch to, or none where
// the thread ends.
typedef const u64 *operation(const u64 *step, struct thread *thread);

#define R1(offset) (*(union r1 *)(thread->registers + (offset)))
#define R16(offset) (*(union r16 *)(thread->registers + (offset)))
#define R32(offset) (*(union r32 *)(thread->registers + (offset)))
#define R64(offset) (*(union r64 *)(thread->registers + (offset)))
#define NEXT(words) return ((operation *)step[words])(step + (words), thread);
#define OPERATION(name, ...)                                           \
    const u64 *name(const u64 *step, struct thread *thread) {          \
        const struct launch *launch = thread->launch;                  \
        const u32 *tid = thread->tid, *ctaid = thread->ctaid;          \
        struct trap *trap = thread->trap;                              \
        __VA_ARGS__                                                    \
    }

// The threads of a range of blocks, up to one that traps.
void run(const struct launch *launch, u64 first, u64 end, struct trap *trap, const u64 *program, u64 registers) {
    const u32 *grid = launch->grid, *block = launch->block;
    u64 held[registers + 1];
    struct thread thread = {launch, trap, (u8 *)held};
    u32 *tid = thread.tid, *ctaid = thread.ctaid;
    for (u64 b = first; b < end; b++) {
        ctaid[0] = b % grid[0], ctaid[1] = b / grid[0] % grid[1], ctaid[2] = b / grid[0] / grid[1];
        for (tid[2] = 0; tid[2] < block[2]; tid[2]++)
            for (tid[1] = 0; tid[1] < block[1]; tid[1]++)
                for (tid[0] = 0; tid[0] < block[0]; tid[0]++) {
                    thread.carry = 0;
                    for (const u64 *step = program; step;) step = ((operation *)step[0])(step, &thread);
                    if (trap->reason) {
                        memcpy(trap->tid, tid, sizeof thread.tid);
                        memcpy(trap->ctaid, ctaid, sizeof thread.ctaid);
                        return;
                    }
                }
    }
}
