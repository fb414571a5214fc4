// From 32-bit words to float32 values: arithmetic.py, under the same names and in the same order.
//
// Every operation is one IEEE operation, because the whole text is compiled without contraction
// (-fmad=false: the compiler then marks each addition and product `.rn`, which binds the assembler too). The
// deviations from arithmetic.py are exact, so that they cannot be seen in the bits:
//
// * integers below 2^23 become floats by writing them into the mantissa of a power of two and subtracting
//   that: no rounding, and no conversion, which GPUs do at a fraction of their rate. The power of two also
//   gives them any scale for nothing;
// * a product that is exact may be fused with the addition behind it: fl(ab + c) is fl(fl(ab) + c);
// * a selection may be a minimum or a saturation, where it is known which of the two is less;
// * two clamps, before and after a function that rises, are one, between other ends (geometry.py, `taken`);
// * a square root and a quotient may be made from an approximation, where every argument that occurs gives the
//   rounded one.

namespace arithmetic {

constexpr f32 UNIT = 0x1p-31f;
constexpr f32 HALF = 0x1p-1f;
constexpr f32 ONE = 0x1p+0f;
constexpr f32 TWO = 0x1p+1f;
constexpr f32 ZERO = 0x0p+0f;
constexpr i32 NONE = 0;
constexpr i32 ODD = 1;
constexpr u32 SIGN = 0x80000000u;
constexpr u32 EIGHTH = 0x20000000u;
constexpr u32 QUARTER = 0x40000000u;
constexpr u32 FINE = 0xffu;
constexpr u32 COARSE = 0x3fffff00u;
constexpr f32 THREE_UNITS = 0x1.8p-30f;
constexpr f32 FINE_UNITS = 0x1.8006p-30f;
constexpr u32 MANTISSA = 0x7fffffu;
constexpr int MANTISSA_WIDTH = 23;
constexpr u32 ONE_BITS = 0x3f800000u;
constexpr f64 POINT = 0x1.8p52;
constexpr u64 POINT_BITS = 0x4338000000000000u;
__device__ constexpr f32 LOG[] = {
    0x1.6a0cf8p-8f, -0x1.a39486p-7f, 0x1.354c26p-6f, -0x1.721b7ap-8f,
    0x1.0df55p-6f,  0x1.f3143ep-6f,  0x1.55a382p-4f, 0x1.fffecp-3f,
};
constexpr f32 MINUS_2_LN_2 = -0x1.62e43p+0f;
constexpr u32 WORD_BIAS = 158;
__device__ constexpr f32 SIN[] = {-0x1.2dc3bap-1f, 0x1.465fep+1f, -0x1.4abbbep+2f, 0x1.21fb54p-3f};
__device__ constexpr f32 COS[] = {0x1.d4f6p-3f, -0x1.55b2b4p+0f, 0x1.03c1bp+2f, -0x1.3bd3ccp+2f};
__device__ constexpr f32 CENTRE_P[] = {
    -0x1.5d706ap+16f, -0x1.285966p+15f, 0x1.4415e4p+11f, 0x1.70b0a8p+8f, 0x1.9d1a78p+1f,
};
__device__ constexpr f32 CENTRE_Q[] = {
    0x1.4699b2p+15f, 0x1.60a47p+15f, 0x1.cc376ep+12f, 0x1.cfe3cp+7f, 0x1p+0f,
};
__device__ constexpr f32 TAIL_P[] = {0x1p+0f, 0x1.46e7dap+2f, -0x1.355f18p-1f, -0x1.feb3p+2f};
__device__ constexpr f32 TAIL_Q[] = {0x1.ff8d9cp-1f, 0x1.4a9428p+2f, 0x1.9223ap+1f};
constexpr f32 TAIL = 0x1.74bd04p-6f;
constexpr i32 HALF_LINE = 0x40000000;
constexpr u32 CENTRED = u32(HALF_LINE) | SIGN;
constexpr u64 ODD_PAIR = 0x100000001u;
constexpr u64 MIDDLE = 0x4000000000000000u;
constexpr u32 PROBABILITY_BIAS = 126;

// The same for an argument in the unit 2^-31: each coefficient times the power of it that its term has, by which
// no step of Horner's scheme rounds differently. The least, 2^-108, is no subnormal.
constexpr f32 UNITS_2 = UNIT * UNIT;
constexpr f32 UNITS_3 = UNITS_2 * UNIT;
constexpr f32 UNITS_4 = UNITS_3 * UNIT;
__device__ constexpr f32 CENTRE_P_UNITS[] = {
    CENTRE_P[0] * UNITS_4, CENTRE_P[1] * UNITS_3, CENTRE_P[2] * UNITS_2, CENTRE_P[3] * UNIT, CENTRE_P[4],
};
__device__ constexpr f32 CENTRE_Q_UNITS[] = {
    CENTRE_Q[0] * UNITS_4, CENTRE_Q[1] * UNITS_3, CENTRE_Q[2] * UNITS_2, CENTRE_Q[3] * UNIT, CENTRE_Q[4],
};

// With an angle or a probability in the unit 1, 2^-31 of the word's: THREE_UNITS, FINE_UNITS, and 2^-8, under
// which the fine bits lie.
constexpr f32 THREE = THREE_UNITS * 0x1p31f;
constexpr f32 FINE_THREE = FINE_UNITS * 0x1p31f;
constexpr u32 FINE_BITS = 0x3b800000u;

struct Uniform {
  f32 bound;
};
struct UniformClamped {
  f32 bound, low, high;
};
struct UniformRange {
  u64 origin, width, shift;
  f32 unit, low, high;
};
struct Normal {
  f32 std, mean;
};
struct NormalCentred {
  f32 std;
};
struct TruncatedCentral {
  u64 origin, width;
  f32 std, mean, low, high;
};
struct Truncated {
  u64 width, low_tail, high_tail;
  f32 unit, std, mean, low, high;
};
__device__ __forceinline__ u32 bits32(f32 x) { return __float_as_uint(x); }
__device__ __forceinline__ f32 float_of_bits32(u32 b) { return __uint_as_float(b); }

// (x & mask) | bits, of constants, as one instruction. A compiler that sees both constants makes it two, since
// an instruction holds one; here it has to keep the other in a register.
__device__ __forceinline__ u32 masked(u32 x, u32 mask, u32 bits) {
#ifdef __CUDA_ARCH__
  u32 result;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(result) : "r"(x), "r"(mask), "r"(bits));
  return result;
#else
  return (x & mask) | bits;
#endif
}

// Whether x has the bit: one instruction, where a compiler that sees the constant shifts, masks and compares.
__device__ __forceinline__ bool has(u32 x, u32 bit) {
#ifdef __CUDA_ARCH__
  u32 result;
  asm("and.b32 %0, %1, %2;" : "=r"(result) : "r"(x), "r"(bit));
  return result != 0;
#else
  return (x & bit) != 0;
#endif
}

// a where the mask is all ones, b where it is zero: one instruction, where a compiler that sees a condition and
// two long computations branches around one of them.
__device__ __forceinline__ f32 chosen(u32 mask, f32 a, f32 b) {
  return float_of_bits32((bits32(a) & mask) | (bits32(b) & ~mask));
}

// No NaN comes here, and PTX has -0 below +0: the selections of arithmetic.py, in one instruction each.
__device__ __forceinline__ f32 clamp(f32 x, f32 low, f32 high) { return fminf(fmaxf(x, low), high); }

// The square root of x in [2^-96, 2^96], rounded to nearest: what ptxas makes of sqrt.rn, without its test for
// other arguments and the branch around the subroutine for those. Two of 2^24 mantissas need an approximation
// that is better than its bound; every GPU whose own sqrt.rn is right has it (test_cuda_roots.py).
__device__ __forceinline__ f32 root(f32 x) {
#ifdef __CUDA_ARCH__
  f32 r;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  const f32 y = x * r;
  return __fmaf_rn(__fmaf_rn(-y, y, x), r * HALF, y);
#else
  return __fsqrt_rn(x);
#endif
}

// n / d rounded to nearest, for the polynomials below, whatever approximation within two places the GPU has: all
// arguments were tried (test_cuda_roots.py). One residual and a branch less than what ptxas makes of div.rn.
__device__ __forceinline__ f32 quotient(f32 n, f32 d) {
#ifdef __CUDA_ARCH__
  f32 r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(d));
  r = __fmaf_rn(r, __fmaf_rn(-d, r, ONE), r);
  const f32 q = n * r;
  return __fmaf_rn(__fmaf_rn(-d, q, n), r, q);
#else
  return n / d;
#endif
}

__device__ __forceinline__ i32 signed_unit_bits(u32 w) { return i32(w) | ODD; }

template <class P>
__device__ __forceinline__ f32 uniform(u32 w, const P& p) { return f32(signed_unit_bits(w)) * (UNIT * p.bound); }

// A lattice point as the sum of two floats, each exact: coarse is a multiple of 2^23, fine is below 2^23. A GPU
// with few float64 units adds them, and that is the one rounding, sooner than it converts 64 bits.
struct Point {
  f32 coarse, fine;
};
__device__ __forceinline__ Point lattice_point(u32 w, const UniformRange& p) {
  constexpr u32 FINE_BITS = 0x4b000000u;    // 2^23
  constexpr u32 COARSE_BITS = 0x4b400000u;  // 1.5 * 2^23
  const u64 n = p.origin + (u64(u32(p.width)) * w >> u32(p.shift));
  const f32 coarse = float_of_bits32(u32(n >> 23) + (COARSE_BITS - u32(POINT_BITS >> 23))) - 0x1.8p23f;
  return {coarse * 0x1p23f, float_of_bits32((u32(n) & MANTISSA) | FINE_BITS) - 0x1p23f};
}

__device__ __forceinline__ f32 uniform_range(u32 w, const UniformRange& p) {
  const Point x = lattice_point(w, p);
  return (x.coarse + x.fine) * p.unit;
}

// Rounding to odd: toward zero, and the last bit set if that was not exact.
__device__ __forceinline__ f32 uniform_range_to_odd(u32 w, const UniformRange& p) {
  const Point x = lattice_point(w, p);
  const f32 cut = __fadd_rz(x.coarse, x.fine);
  const f32 odd = float_of_bits32(bits32(cut) | u32(cut - x.coarse != x.fine));
  return odd * p.unit;
}

template <int N>
__device__ __forceinline__ f32 horner(f32 x, const f32 (&coefficients)[N]) {
  f32 p = coefficients[0];
#pragma unroll
  for (int k = 1; k < N; ++k) p = p * x + coefficients[k];
  return p;
}

__device__ __forceinline__ f32 minus_two_log(f32 g, f32 e) { return e * MINUS_2_LN_2 + (g + horner(g, LOG) * g * g); }

// The bits b of a float as its exponent field, a float, less `bias`; a sign bit counts 2^8. The funnel shift
// puts the field under the bits of 2^23, in one instruction.
__device__ __forceinline__ f32 exponent(u32 b, u32 bias) {
  constexpr u32 MAGIC_BITS = 0x4b000000u;
  const u32 shifted = __funnelshift_r(b, MAGIC_BITS >> (32 - MANTISSA_WIDTH), MANTISSA_WIDTH);
  return float_of_bits32(shifted) - f32(0x800000u + bias);
}

constexpr f32 SHRUNK = 64;

__device__ __forceinline__ f32 radius_squared(u32 w) {
  // Scaled by 2^-31, which commutes with the rounding: the bits are those of f32(i32(w)) + HALF, but for the
  // exponent, and the exact product is fused with the sum.
  const f32 v = __fmaf_rn(f32(i32(w)), UNIT, HALF * UNIT);
  const u32 b = bits32(v);
  // The selection is a minimum of signed integers, of -g: for an upper word that is v < 0, and m keeps the sign, so
  // that m - TWO is below -3, whose pattern is the greater one of two negative numbers; for a lower word v is
  // positive, and -g is m - TWO, which is negative.
  const f32 m = float_of_bits32(masked(b, SIGN | MANTISSA, ONE_BITS));
  const f32 g = -float_of_bits32(u32(min(i32(b), i32(bits32(m - TWO)))));
  // An upper word's sign counts 2^8 in e, and makes the product negative: saturated to [0, 1] it is zero, as
  // with e = 0. A lower word's product, at most 45, is kept in that interval by a division by 64, which is taken
  // back in the exact product of a fused sum.
  const f32 e = exponent(b, WORD_BIAS - 31);
  return __fmaf_rn(__saturatef(e * (MINUS_2_LN_2 / SHRUNK)), SHRUNK, g + horner(g, LOG) * g * g);
}

__device__ __forceinline__ f32 shifted(f32 x, const Normal& p) { return x + p.mean; }
// No normal is zero, so that adding zero changes nothing.
__device__ __forceinline__ f32 shifted(f32 x, const NormalCentred&) { return x; }

// The two values of a pair from its radius and its angle's word: box_muller's second half.
template <class P>
__device__ __forceinline__ void turned(f32 radius, u32 w1, const P& p, f32& even, f32& odd) {
  const u32 a = w1 + EIGHTH;
  // (a & COARSE) - EIGHTH in units of 2^-31 is 22 bits below 1.25; (a | ODD) & FINE is 8 bits above 2^-8.
  const f32 coarse = float_of_bits32(((a & COARSE) >> 8) | ONE_BITS) - 1.25f;
  const f32 fine = float_of_bits32(masked(a, FINE - ODD, FINE_BITS | ODD)) - 0x1p-8f;
  const f32 t = coarse + fine;
  const f32 z = t * t;
  // Both products by THREE are exact.
  const f32 s = __fmaf_rn(coarse, THREE, __fmaf_rn(fine, THREE, horner(z, SIN) * t));
  const f32 c = horner(z, COS) * z + ONE;
  f32 q = radius * p.std;
  q = float_of_bits32(bits32(q) ^ (a & SIGN));
  const bool quarter = has(a, QUARTER);
  const f32 minus_s = -s;
  even = shifted(q * (quarter ? minus_s : c), p);
  odd = shifted(q * (quarter ? c : s), p);
}

// Box-Muller for N pairs of words.
template <int N, class P>
__device__ __forceinline__ void box_muller(const u32 (&words)[2 * N], const P& p, f32 (&values)[2 * N]) {
  f32 radii[N];
#pragma unroll
  for (int n = 0; n < N; ++n) radii[n] = root(radius_squared(words[2 * n]));
#pragma unroll
  for (int n = 0; n < N; ++n) turned(radii[n], words[2 * n + 1], p, values[2 * n], values[2 * n + 1]);
}

// p - 1/2 in units of 2^-31, odd, plus CENTRED: the host has added it to the origin. The width is at most 2^31: 32
// bits, which make it one multiply-add.
__device__ __forceinline__ u32 central_argument(u32 w, const TruncatedCentral& p) {
  return u32((p.origin + u64(u32(p.width)) * w) >> 32) | u32(ODD_PAIR);
}

// z = 3 q + q ratio from m = q / UNIT + CENTRED, |q| < 1/2, the two parts of q being exact in the unit 1.
__device__ __forceinline__ f32 central(u32 m, f32 ratio) {
  // With bit 31 set, as the last one of the exponent, the funnel shift that drops the fine bits puts the rest of it
  // above.
  const f32 coarse = float_of_bits32(__funnelshift_r(m, ONE_BITS >> 24, 8)) - 1.5f;
  const f32 fine = float_of_bits32(masked(m, FINE - ODD, FINE_BITS | ODD)) - 0x1p-8f;
  const f32 rest = float_of_bits32(bits32((coarse + fine) * ratio) | u32(ODD));
  // Both products are exact.
  return __fmaf_rn(fine, FINE_THREE, __fmaf_rn(coarse, THREE, rest));
}

__device__ __forceinline__ f32 truncated_central(u32 w, const TruncatedCentral& p) {
  const u32 m = central_argument(w, p);
  // The nearer tail is that of m or of its mirror image, which has the opposite of each bit but the first and last.
  // As signed integers both are the tail's negative.
  const f32 minus_d = f32(max(i32(m), i32(m ^ (~SIGN - ODD))));
  // y = d - d d in the unit of d, which makes the product by it exact.
  const f32 y = __fmaf_rn(minus_d * minus_d, -UNIT, -minus_d);
  return central(m, quotient(horner(y, CENTRE_P_UNITS), horner(y, CENTRE_Q_UNITS))) * p.std + p.mean;
}

__device__ __forceinline__ f32 truncated(u32 w, const Truncated& p) {
  const u64 step = u64(u32(p.width)) * w;  // at most 2^31 here, too
  const u64 below = p.low_tail + step;
  const u64 above = p.high_tail - step;
  const bool lower = below < above;
  const u64 nearer = lower ? below : above;
  const f32 d = f32(nearer) * p.unit;
  const u32 b = bits32(d);
  const f32 g = TWO - float_of_bits32((b & MANTISSA) | ONE_BITS);
  const f32 r = root(minus_two_log(g, exponent(b, PROBABILITY_BIAS)));
  const f32 y = d - d * d;
  const u32 tail = d < TAIL ? ~0u : 0u;
  const f32 ratio = quotient(chosen(tail, horner(r, TAIL_P), horner(y, CENTRE_P)),
                             chosen(tail, horner(r, TAIL_Q), horner(y, CENTRE_Q)));
  f32 z = chosen(tail, ratio, central(u32((MIDDLE + (u64(CENTRED) << 32) - nearer) >> 32) | ODD, ratio));
  z = lower ? -z : z;
  return z * p.std + p.mean;
}

}  // namespace arithmetic
