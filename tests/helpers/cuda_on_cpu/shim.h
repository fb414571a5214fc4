// As much of CUDA C++ as the kernels use, for g++: the same source runs thread by thread on a CPU.
//
// Device intrinsics are the operations that CUDA documents; what the compiler for the GPU makes of the source is
// for test_cuda_compile.py and the translated PTX.
#pragma once
#include <algorithm>
#include <cstring>
#include <utility>

#define __device__
// Kernels that nothing exports are not compiled.
#define __global__ inline
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__

using std::max;
using std::min;

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct Index {
  unsigned x;
};
static thread_local Index gridDim, blockIdx, threadIdx;

static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }

template <class To, class From>
static inline To reinterpret(From x) {
  static_assert(sizeof(To) == sizeof(From));
  To y;
  std::memcpy(&y, &x, sizeof y);
  return y;
}
static inline unsigned __float_as_uint(float x) { return reinterpret<unsigned>(x); }
static inline float __uint_as_float(unsigned x) { return reinterpret<float>(x); }
static inline long long __double_as_longlong(double x) { return reinterpret<long long>(x); }
static inline double __longlong_as_double(long long x) { return reinterpret<double>(x); }

// -0 lies below +0, as in PTX; no NaN comes here.
static inline float lesser(float a, float b) { return a < b || (a == b && __builtin_signbit(a)) ? a : b; }
static inline float greater(float a, float b) { return a > b || (a == b && !__builtin_signbit(a)) ? a : b; }
#define fminf lesser
#define fmaxf greater
static inline float __saturatef(float x) { return x > 0 ? x < 1 ? x : 1 : 0; }
static inline float __fsqrt_rn(float x) { return __builtin_sqrtf(x); }
static inline double __dsqrt_rn(double x) { return __builtin_sqrt(x); }
// The error of a sum rounded to nearest is exact (Knuth's TwoSum); where it points away from zero, one step back.
static inline float __fadd_rz(float a, float b) {
  const float s = a + b, part = s - a;
  const float error = (a - (s - part)) + (b - part);
  return reinterpret<float>(reinterpret<unsigned>(s) - (error != 0 && (error < 0) != (s < 0)));
}
static inline float __fmaf_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
static inline double __fma_rn(double a, double b, double c) { return __builtin_fma(a, b, c); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return (unsigned long long)(((unsigned __int128)a * b) >> 64);
}
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return unsigned((((unsigned long long)high << 32) | low) >> (shift & 31));
}
