// One rounding from float32 to a 16-bit or 8-bit type, to nearest even: narrow.py, and how a block's values are
// packed into 32-bit pieces, the first value lowest.
//
// From the architectures on that convert two values in one instruction, those instructions do it. They round
// to nearest even too, make the narrow type's subnormals (PTX: cvt to f16, e4m3 and e5m2 supports them; a
// float32 that is normal is a normal bfloat16), and differ from the integers in NaN and overflow alone, and the
// host has seen to it that neither occurs.

namespace narrow {

#ifdef __CUDA_ARCH__
constexpr bool CONVERTS_TO_16 = __CUDA_ARCH__ >= 800;
constexpr bool CONVERTS_TO_8 = __CUDA_ARCH__ >= 890;
#else
constexpr bool CONVERTS_TO_16 = false;
constexpr bool CONVERTS_TO_8 = false;
#endif

constexpr u32 ONE = 1;
constexpr u32 MAGNITUDE = 0x7fffffffu;

// Rounding of narrow.py, with the format's signed_zero: derived there from the table of formats.
struct Rounding {
  u32 surplus, rebias, least_normal;
  f32 magic;
  u32 magic_bits;
  bool signed_zero;
};
constexpr Rounding FLOAT16 = {13, 112u << 10, 113u << 23, 0x1p-1f, 126u << 23, true};
constexpr Rounding FLOAT8_E4M3FN = {20, 120u << 3, 121u << 23, 0x1p+14f, 141u << 23, true};
constexpr Rounding FLOAT8_E5M2 = {21, 112u << 2, 113u << 23, 0x1p+7f, 134u << 23, true};
constexpr Rounding FLOAT8_E4M3FNUZ = {20, 119u << 3, 120u << 23, 0x1p+13f, 140u << 23, false};
constexpr Rounding FLOAT8_E5M2FNUZ = {21, 111u << 2, 112u << 23, 0x1p+6f, 133u << 23, false};
constexpr u32 TO_16 = 16;
constexpr u32 TO_8 = 24;
constexpr u32 HALF_BF16 = 0x7fffu;

// The sign stands at bit 31 >> sign_shift, and nothing above it.
__device__ __forceinline__ u32 rounded(f32 x, const Rounding to, u32 sign_shift) {
  const u32 b = __float_as_uint(x);
  const u32 magnitude = b & MAGNITUDE;
  const u32 half = (ONE << (to.surplus - ONE)) - ONE;
  const u32 even = (magnitude >> to.surplus) & ONE;
  const u32 normal = ((magnitude + half + even) >> to.surplus) - to.rebias;
  const u32 subnormal = __float_as_uint(__uint_as_float(magnitude) + to.magic) - to.magic_bits;
  const u32 bits = magnitude < to.least_normal ? subnormal : normal;
  const u32 sign = (b ^ magnitude) >> sign_shift;
  return to.signed_zero || bits ? bits | sign : bits;
}

__device__ __forceinline__ u32 to_float16(f32 x) { return rounded(x, FLOAT16, TO_16); }

__device__ __forceinline__ u32 to_bfloat16(f32 x) {
  const u32 b = __float_as_uint(x);
  return (b + HALF_BF16 + ((b >> TO_16) & ONE)) >> TO_16;
}

__device__ __forceinline__ u32 to_float8_e4m3fn(f32 x) { return rounded(x, FLOAT8_E4M3FN, TO_8); }

__device__ __forceinline__ u32 to_float8_e5m2(f32 x) { return rounded(x, FLOAT8_E5M2, TO_8); }

// Two values, the first in the lower half; the instructions take the upper one first.
#define CONVERT_TWO(instruction, constraint, result, low, high) \
  asm(instruction " %0, %1, %2;" : constraint(result) : "f"(high), "f"(low))

__device__ __forceinline__ u32 two_float16(f32 low, f32 high) {
  if constexpr (CONVERTS_TO_16) {
    u32 both;
    CONVERT_TWO("cvt.rn.f16x2.f32", "=r", both, low, high);
    return both;
  }
  return to_float16(low) | to_float16(high) << 16;
}

__device__ __forceinline__ u32 two_bfloat16(f32 low, f32 high) {
  if constexpr (CONVERTS_TO_16) {
    u32 both;
    CONVERT_TWO("cvt.rn.bf16x2.f32", "=r", both, low, high);
    return both;
  }
  return to_bfloat16(low) | to_bfloat16(high) << 16;
}

__device__ __forceinline__ u32 two_float8_e4m3fn(f32 low, f32 high) {
  if constexpr (CONVERTS_TO_8) {
    u16 both;
    CONVERT_TWO("cvt.rn.satfinite.e4m3x2.f32", "=h", both, low, high);
    return both;
  }
  return to_float8_e4m3fn(low) | to_float8_e4m3fn(high) << 8;
}

__device__ __forceinline__ u32 two_float8_e5m2(f32 low, f32 high) {
  if constexpr (CONVERTS_TO_8) {
    u16 both;
    CONVERT_TWO("cvt.rn.satfinite.e5m2x2.f32", "=h", both, low, high);
    return both;
  }
  return to_float8_e5m2(low) | to_float8_e5m2(high) << 8;
}

// No instruction converts to these.
__device__ __forceinline__ u32 two_float8_e4m3fnuz(f32 low, f32 high) {
  return rounded(low, FLOAT8_E4M3FNUZ, TO_8) | rounded(high, FLOAT8_E4M3FNUZ, TO_8) << 8;
}

__device__ __forceinline__ u32 two_float8_e5m2fnuz(f32 low, f32 high) {
  return rounded(low, FLOAT8_E5M2FNUZ, TO_8) | rounded(high, FLOAT8_E5M2FNUZ, TO_8) << 8;
}

// The same two values of 16 bits inside [low, high], each of which is there twice. PTX has -0 below +0.
#define CLAMP_TWO(type, x, low, high)                  \
  asm("max." type " %0, %0, %1;" : "+r"(x) : "r"(low)); \
  asm("min." type " %0, %0, %1;" : "+r"(x) : "r"(high))

// A dtype: the integer that holds its bits, and how values become 32-bit pieces.
struct Uint32 {
  typedef u32 Lane;
  template <int N>
  static __device__ __forceinline__ void pack(const u32 (&values)[N], u32 (&pieces)[N]) {
#pragma unroll
    for (int n = 0; n < N; ++n) pieces[n] = values[n];
  }
};

struct Float32 {
  typedef u32 Lane;
  template <int N>
  static __device__ __forceinline__ void pack(const f32 (&values)[N], u32 (&pieces)[N]) {
#pragma unroll
    for (int n = 0; n < N; ++n) pieces[n] = __float_as_uint(values[n]);
  }
};

struct Float64 {
  typedef u64 Lane;
  template <int N>
  static __device__ __forceinline__ void pack(const f64 (&values)[N], u32 (&pieces)[2 * N]) {
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const u64 b = u64(__double_as_longlong(values[n]));
      pieces[2 * n] = u32(b);
      pieces[2 * n + 1] = u32(b >> 32);
    }
  }
};

#define TWO_A_PIECE(Dtype, two, type)                                                                    \
  struct Dtype {                                                                                         \
    typedef u16 Lane;                                                                                    \
    static __device__ __forceinline__ void clamp_two(u32& x, f32 low, f32 high) {                        \
      const u32 lows = two(low, low), highs = two(high, high);                                           \
      CLAMP_TWO(type, x, lows, highs);                                                                   \
    }                                                                                                    \
    template <int N>                                                                                     \
    static __device__ __forceinline__ void pack(const f32 (&values)[2 * N], u32 (&pieces)[N]) {          \
      _Pragma("unroll") for (int n = 0; n < N; ++n) pieces[n] = two(values[2 * n], values[2 * n + 1]);   \
    }                                                                                                    \
  };
TWO_A_PIECE(Float16, two_float16, "f16x2")
TWO_A_PIECE(Bfloat16, two_bfloat16, "bf16x2")

#define FOUR_A_PIECE(Dtype, two)                                                                         \
  struct Dtype {                                                                                         \
    typedef u8 Lane;                                                                                     \
    template <int N>                                                                                     \
    static __device__ __forceinline__ void pack(const f32 (&values)[4 * N], u32 (&pieces)[N]) {          \
      _Pragma("unroll") for (int n = 0; n < N; ++n) pieces[n] =                                          \
          two(values[4 * n], values[4 * n + 1]) | two(values[4 * n + 2], values[4 * n + 3]) << 16;       \
    }                                                                                                    \
  };
FOUR_A_PIECE(Float8E4m3fn, two_float8_e4m3fn)
FOUR_A_PIECE(Float8E5m2, two_float8_e5m2)
FOUR_A_PIECE(Float8E4m3fnuz, two_float8_e4m3fnuz)
FOUR_A_PIECE(Float8E5m2fnuz, two_float8_e5m2fnuz)

// Values inside [low, high], packed. Those of 16 bits are clamped two at once, after they are rounded: rounding
// keeps the order, so that it may come first for the ends as well.
template <class Dtype, class Value, int VALUES, int PIECES>
__device__ __forceinline__ void pack_within(const Value (&values)[VALUES], Value low, Value high, u32 (&pieces)[PIECES]) {
  if constexpr (CONVERTS_TO_16 && sizeof(typename Dtype::Lane) == 2) {
    Dtype::pack(values, pieces);
#pragma unroll
    for (int n = 0; n < PIECES; ++n) Dtype::clamp_two(pieces[n], low, high);
  } else {
    using arithmetic::clamp;
    using arithmetic64::clamp;
    Value inside[VALUES];
#pragma unroll
    for (int n = 0; n < VALUES; ++n) inside[n] = clamp(values[n], low, high);
    Dtype::pack(inside, pieces);
  }
}

}  // namespace narrow
