// From 64-bit words to float64 values: arithmetic64.py, under the same names and in the same order. What
// arithmetic.cuh says of exact deviations holds here; the high half of a 128-bit product is one function.

namespace arithmetic64 {

constexpr f64 UNIT = 0x1p-63;
constexpr f64 HALF = 0x1p-1;
constexpr f64 FOURTH = 0x1p-2;
constexpr f64 ONE = 0x1p+0;
constexpr f64 TWO = 0x1p+1;
constexpr f64 FOUR = 0x1p+2;
constexpr f64 ZERO = 0x0p+0;
constexpr i64 NONE = 0;
constexpr i64 ODD = 1;
constexpr u64 SIGN = 0x8000000000000000u;
constexpr u64 EIGHTH = 0x2000000000000000u;
constexpr u64 QUARTER = 0x4000000000000000u;
constexpr u64 FINE = 0x7ffu;
constexpr u64 COARSE = 0x3ffffffffffff800u;
constexpr f64 THREE_UNITS = 0x1.8p-62;
constexpr u64 MANTISSA = 0xfffffffffffffu;
constexpr int MANTISSA_WIDTH = 52;
constexpr u64 ONE_BITS = 0x3ff0000000000000u;
__device__ constexpr f64 LOG[] = {
    0x1.5c4155187bbd4p-2, 0x1.55ede2ed2f4edp-3, 0x1.efca2b3749e5p-3,  0x1.1068adb72e6c8p-2, 0x1.3b1dc948c13bdp-2,
    0x1.745cb4e2d886cp-2, 0x1.c71c74159de66p-2, 0x1.249249209bc66p-1, 0x1.99999999a051p-1,  0x1.5555555555536p+0,
};
constexpr f64 MINUS_2_LN_2 = -0x1.62e42fefa39efp+0;
constexpr f64 LOW_UNIT = 0x1p-64;
constexpr u32 WORD_BIAS = 1086;
__device__ constexpr f64 SIN[] = {
    0x1.e3f782a93097ap-12, -0x1.e3007be6acc34p-8, 0x1.50782fe23a52cp-4, -0x1.32d2cce2e80ecp-1,
    0x1.466bc6775876fp+1,  -0x1.4abbce625be4p+2,  0x1.21fb54442d184p-3,
};
__device__ constexpr f64 COS[] = {
    -0x1.b053b084e591cp-14, 0x1.f9c5097f33d12p-10, -0x1.a6d1e29e45eeep-6, 0x1.e1f506761a0d8p-3,
    -0x1.55d3c7e3c015fp+0,  0x1.03c1f081b5a53p+2,  -0x1.3bd3cc9be45dep+2,
};
__device__ constexpr f64 CENTRE_P[] = {
    0x1p+0,
    0x1.cd94d074e1558p+1,
    0x1.762767114a048p+1,
    0x1.9c2b8d8e49e3fp-1,
    0x1.64d39a0c96dabp-4,
    0x1.f725e16813455p-9,
    0x1.133a927c1f4b3p-14,
    0x1.8b278237514ecp-22,
    0x1.cd0737a7cb77cp-32,
};
__device__ constexpr f64 CENTRE_Q[] = {
    0x1.091d6ec6aad08p-4, 0x1.1fe95156c03fdp+0,  0x1.1f4ad0a9fd57bp+1,  0x1.4a8c7d2f02bb3p+0, 0x1.1d043e20867b6p-2,
    0x1.962a6ab601f15p-6, 0x1.e4792290983a9p-11, 0x1.c5d0265001c12p-17, 0x1.159ca589de9cp-24, 0x1.07bb4c3ed5a16p-34,
};
__device__ constexpr f64 TAIL_P[] = {
    0x1p+0,
    0x1.0a0c2c2995832p+6,
    0x1.0fe233748fe3p+10,
    0x1.5f6bdf658f50cp+12,
    0x1.24fa9b79fb6b2p+13,
    0x1.b47ce9888c392p+11,
    -0x1.30d2241af7eeep+13,
    -0x1.1df59568129f7p+14,
    -0x1.17f53ebf159e5p+12,
};
__device__ constexpr f64 TAIL_Q[] = {
    0x1.fffd957fc7712p-1,  0x1.0a1365a9309b6p+6,  0x1.1165afe572206p+10, 0x1.717775dfae7d9p+12,
    0x1.9088478c54c8fp+13, 0x1.fcccd658abc9ep+13, 0x1.3de458c4023e1p+13, 0x1.509578db59deep+10,
};
constexpr f64 TAIL = 0x1.74bd03d285476p-6;
constexpr f64 POINT = 0x1.8p52;
constexpr f64 PART = 0x1p52;
constexpr f64 PART_UNIT = 0x1p-51;
constexpr u32 PART_SHIFT = 13;
constexpr u32 WORD = 64;
constexpr u64 MIDDLE = 0x4000000000000000u;
constexpr u32 PROBABILITY_BIAS = 1022;

struct Uniform {
  f64 bound;
};
struct UniformClamped {
  f64 bound, low, high;
};
struct UniformRange {
  u64 origin, origin_part, width, shift;
  f64 unit, low, high;
};
struct Normal {
  f64 std, mean;
};
struct NormalCentred {
  f64 std;
};
struct TruncatedCentral {
  u64 origin, width;
  f64 std, mean, low, high;
};
struct Truncated {
  u64 width, low_tail_high, low_tail_low, high_tail_high, high_tail_low;
  f64 unit, std, mean, low, high;
};
struct Pair {
  f64 even, odd;
};

__device__ __forceinline__ u64 bits64(f64 x) { return u64(__double_as_longlong(x)); }
__device__ __forceinline__ f64 float_of_bits64(u64 b) { return __longlong_as_double(i64(b)); }

__device__ __forceinline__ f64 clamp(f64 x, f64 low, f64 high) { return x < low ? low : x > high ? high : x; }

__device__ __forceinline__ i64 signed_unit_bits(u64 w) { return i64(w) | ODD; }

template <class P>
__device__ __forceinline__ f64 uniform(u64 w, const P& p) { return f64(signed_unit_bits(w)) * (UNIT * p.bound); }

__device__ __forceinline__ f64 uniform_range(u64 w, const UniformRange& p) {
  const u64 step = __umul64hi(p.width, w);
  const u32 shift = u32(p.shift);
  const f64 whole = float_of_bits64(p.origin + (step >> shift)) - POINT;
  const f64 part = float_of_bits64(p.origin_part + ((step << (WORD - shift)) >> PART_SHIFT)) - PART;
  return __fma_rn(part, PART_UNIT, whole) * p.unit;
}

template <int N>
__device__ __forceinline__ f64 horner(f64 x, const f64 (&coefficients)[N]) {
  f64 p = coefficients[0];
#pragma unroll
  for (int k = 1; k < N; ++k) p = p * x + coefficients[k];
  return p;
}

__device__ __forceinline__ f64 minus_two_log(f64 g, f64 e) {
  const f64 s = g / (FOUR - g);
  const f64 z = s * s;
  return (e * MINUS_2_LN_2 + g) + s * (g + z * horner(z, LOG));
}

// The bits b of a float as its exponent field, a float, less `bias`; a sign bit counts 2^11.
__device__ __forceinline__ f64 exponent(u64 b, u32 bias) {
  constexpr u64 MAGIC_BITS = 0x4330000000000000u;
  return float_of_bits64((b >> MANTISSA_WIDTH) | MAGIC_BITS) - f64(0x10000000000000u + bias);
}

__device__ __forceinline__ f64 radius(u64 w) {
  const f64 v = f64(i64(w)) + HALF;
  const u64 b = bits64(v);
  const bool upper = i64(b) < NONE;
  // Evaluated before they are selected, so that there is nothing to branch around.
  const f64 complement = v * -UNIT;
  const f64 fraction = TWO - float_of_bits64((b & MANTISSA) | ONE_BITS);
  const f64 scale = exponent(b, WORD_BIAS);
  const f64 g = upper ? complement : fraction;
  const f64 e = upper ? ZERO : scale;
  return __dsqrt_rn(minus_two_log(g, e));
}

__device__ __forceinline__ f64 shifted(f64 x, const Normal& p) { return x + p.mean; }
__device__ __forceinline__ f64 shifted(f64 x, const NormalCentred&) { return x; }

template <class P>
__device__ __forceinline__ Pair box_muller(u64 w0, u64 w1, const P& p) {
  const u64 a = w1 + EIGHTH;
  // (a & COARSE) - EIGHTH in units of 2^-63 is 51 bits below 1.25; (a | ODD) & FINE is 11 bits above 2^-11.
  constexpr u64 FINE_BITS = 0x3f40000000000000u;
  const f64 coarse = float_of_bits64(((a & COARSE) >> 11) | ONE_BITS) - 1.25;
  const f64 fine = float_of_bits64((a & (FINE - ODD)) | (FINE_BITS | ODD)) - 0x1p-11;
  const f64 t = coarse + fine;
  const f64 z = t * t;
  constexpr f64 THREE = THREE_UNITS * 0x1p63;
  const f64 s = __fma_rn(coarse, THREE, __fma_rn(fine, THREE, horner(z, SIN) * t));
  const f64 c = horner(z, COS) * z + ONE;
  f64 q = radius(w0) * p.std;
  q = float_of_bits64(bits64(q) ^ (a & SIGN));
  const bool quarter = (a & QUARTER) != NONE;
  const f64 minus_s = -s;
  return {shifted(q * (quarter ? minus_s : c), p), shifted(q * (quarter ? c : s), p)};
}

__device__ __forceinline__ f64 truncated_central(u64 w, const TruncatedCentral& p) {
  const u64 high = __umul64hi(p.width, w);
  const f64 q = f64(i64(p.origin + high)) * UNIT;
  const f64 y = FOURTH - q * q;
  const f64 z = q * horner(y, CENTRE_P) / horner(y, CENTRE_Q);
  return z * p.std + p.mean;
}

__device__ __forceinline__ f64 truncated(u64 w, const Truncated& p) {
  const u64 high = __umul64hi(p.width, w);
  const u64 low = p.width * w;
  const u64 below_low = p.low_tail_low + low;
  const u64 below_high = p.low_tail_high + high + (below_low < low);
  const u64 above_low = p.high_tail_low - low;
  const u64 above_high = p.high_tail_high - high - (p.high_tail_low < low);
  const bool lower = below_high < above_high;
  const u64 nearer = lower ? below_high : above_high;
  const u64 rest = lower ? below_low : above_low;
  const f64 d = (f64(nearer) + f64(rest) * LOW_UNIT) * p.unit;
  const u64 b = bits64(d);
  const f64 g = TWO - float_of_bits64((b & MANTISSA) | ONE_BITS);
  const f64 r = __dsqrt_rn(minus_two_log(g, exponent(b, PROBABILITY_BIAS)));
  const f64 q = f64(i64(MIDDLE - nearer)) * UNIT;
  const f64 y = FOURTH - q * q;
  const bool tail = d < TAIL;
  // All four are evaluated, as in a select of lanes: a branch would diverge in most warps.
  const f64 tail_p = horner(r, TAIL_P);
  const f64 tail_q = horner(r, TAIL_Q);
  const f64 centre_p = q * horner(y, CENTRE_P);
  const f64 centre_q = horner(y, CENTRE_Q);
  f64 z = (tail ? tail_p : centre_p) / (tail ? tail_q : centre_q);
  z = lower ? -z : z;
  return z * p.std + p.mean;
}

}  // namespace arithmetic64
