// The square root and the quotients of arithmetic.cuh against the IEEE operations, for consecutive floats. Every
// argument that a form can produce is among the ranges of fanfill.selftest.exhaustive, which runs this.
//
// A thread leaves in `found` how many of its arguments came out differently.

#include "philox.cuh"
#include "arithmetic.cuh"

constexpr u32 THREADS = 256;

template <class Differs>
__device__ __forceinline__ void tally(u32* found, u32 first, u32 count, const Differs& differs) {
  const u32 mine = blockIdx.x * THREADS + threadIdx.x;
  u32 differing = 0;
  for (u32 k = mine; k < count; k += gridDim.x * THREADS) {
    differing += differs(arithmetic::float_of_bits32(first + k));
  }
  found[mine] = differing;
}

struct Root {
  __device__ __forceinline__ bool operator()(f32 x) const { return !(arithmetic::root(x) == __fsqrt_rn(x)); }
};

template <int N, int M>
__device__ __forceinline__ bool quotient_differs(f32 x, const f32 (&p)[N], const f32 (&q)[M]) {
  const f32 n = arithmetic::horner(x, p), d = arithmetic::horner(x, q);
  return !(arithmetic::quotient(n, d) == n / d);
}

struct Centre {  // of the nearer tail's probability, and the same in the unit 2^-31
  __device__ __forceinline__ bool operator()(f32 d) const {
    const f32 x = d - d * d, many = d * 0x1p31f, y = __fmaf_rn(many * many, -arithmetic::UNIT, many);
    return quotient_differs(x, arithmetic::CENTRE_P, arithmetic::CENTRE_Q) ||
           arithmetic::horner(x, arithmetic::CENTRE_P) != arithmetic::horner(y, arithmetic::CENTRE_P_UNITS) ||
           arithmetic::horner(x, arithmetic::CENTRE_Q) != arithmetic::horner(y, arithmetic::CENTRE_Q_UNITS);
  }
};

struct Tail {  // of the radius
  __device__ __forceinline__ bool operator()(f32 r) const {
    return quotient_differs(r, arithmetic::TAIL_P, arithmetic::TAIL_Q);
  }
};

#define TALLY(name, Differs)                                                                         \
  extern "C" __global__ void __launch_bounds__(THREADS) name(u32* found, u32 first, u32 count) {     \
    tally(found, first, count, Differs{});                                                           \
  }
TALLY(roots, Root)
TALLY(centre_quotients, Centre)
TALLY(tail_quotients, Tail)
