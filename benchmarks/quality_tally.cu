// What quality_passes.py counts, counted where the values were drawn: in a device's memory.
//
// powers_<width>, levels_<width>, cells_<width>, last_<width>   of raw bits of 8, 16, 32 or 64
// lags, beside                                                  of the standardised values that powers_ leaves
// put                                                           a table into memory, 4,000 bytes a launch
// swapped, floored, centred, scaled, clipped, evened, spoiled   one flaw each, for the negative controls
//
// Counts are integers, in no order: the CPU's, bit for bit. Every thread has slots of its own for sums of
// floats, so that these have an order too. BLOCK and LAGS are defined in front; two thread blocks take a block.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

constexpr u32 THREADS = 256;
#define KERNEL extern "C" __global__ void __launch_bounds__(THREADS)
constexpr u32 STEP = 2 * THREADS;  // threads of a block, and the distance of a thread's values
constexpr u32 OWN = BLOCK / STEP;  // values of a thread
constexpr int LEVELS = 6;
constexpr int POWERS = 8;

// Where a thread is.
struct Here {
  u64 block;   // its block's number in this launch
  u32 first;   // its first value in the block
  u64 slot;    // its number in this launch
};

__device__ __forceinline__ Here here() {
  const u32 half = blockIdx.x % 2;
  return {blockIdx.x / 2, half * THREADS + threadIdx.x, u64(blockIdx.x) * THREADS + threadIdx.x};
}

__device__ __forceinline__ void add(double* sums, u64 slots, const Here& at, int k, double x) {
  sums[k * slots + at.slot] += x;
}

// Numbers as integers: those of 8 and 16 bits are looked up as the float32 that they are.
template <class Lane>
struct Values {
  typedef u32 Bits;
  static constexpr int sign = 31, mantissa = 23;
  const Lane* raw;
  const u32* wide;
  __device__ __forceinline__ u32 bits(u64 i) const {
    if constexpr (sizeof(Lane) == 4) return raw[i];
    else return wide[raw[i]];
  }
  __device__ __forceinline__ double real(u64 i) const { return __uint_as_float(bits(i)); }
};

template <>
struct Values<u64> {
  typedef u64 Bits;
  static constexpr int sign = 63, mantissa = 52;
  const u64* raw;
  const u32* wide;
  __device__ __forceinline__ u64 bits(u64 i) const { return raw[i]; }
  __device__ __forceinline__ double real(u64 i) const { return __longlong_as_double(raw[i]); }
};

// z = (x - middle) * inverse, kept in float32; if there are slots for them, sums += z, z^2, ..., z^8.
template <class Lane>
__device__ __forceinline__ void powers(const Values<Lane>& x, double middle, double inverse, float* z, double* sums,
                                       u64 slots) {
  const Here at = here();
  double total[POWERS] = {};
#pragma unroll 1
  for (u32 j = 0; j < OWN; ++j) {
    const u64 i = at.block * BLOCK + at.first + j * STEP;
    const double a = (x.real(i) - middle) * inverse;
    const double b = a * a, c = b * b;
    const double power[POWERS] = {a, b, b * a, c, c * a, c * b, c * b * a, c * c};
#pragma unroll
    for (int k = 0; k < POWERS; ++k) total[k] += power[k];
    z[i] = float(a);
  }
  if (slots == 0) return;
#pragma unroll
  for (int k = 0; k < POWERS; ++k) add(sums, slots, at, k, total[k]);
}

// Magnitudes, as bits: the six levels, and the least of those that are no numbers.
struct Limits {
  u64 level[LEVELS], infinite;
};

// found[0..5] += how many reach the levels; [6] += zeros; [7] += infinities and NaN; [8] = the largest finite one.
template <class Lane>
__device__ __forceinline__ void levels(const Values<Lane>& x, const Limits& limits, u64* found, u64 slots) {
  typedef typename Values<Lane>::Bits Bits;
  constexpr Bits MAGNITUDE = (Bits(1) << Values<Lane>::sign) - 1;
  const Here at = here();
  u32 reached[LEVELS] = {}, zeros = 0, odd = 0;
  Bits most = 0;
#pragma unroll 1
  for (u32 j = 0; j < OWN; ++j) {
    const Bits m = x.bits(at.block * BLOCK + at.first + j * STEP) & MAGNITUDE;
#pragma unroll
    for (int k = 0; k < LEVELS; ++k) reached[k] += m >= Bits(limits.level[k]);
    zeros += m == 0;
    if (m >= Bits(limits.infinite)) ++odd;
    else if (m > most) most = m;
  }
#pragma unroll
  for (int k = 0; k < LEVELS; ++k) found[k * slots + at.slot] += reached[k];
  found[LEVELS * slots + at.slot] += zeros;
  found[(LEVELS + 1) * slots + at.slot] += odd;
  u64& largest = found[(LEVELS + 2) * slots + at.slot];
  if (most > largest) largest = most;
}

// How cells are numbered, and how often each count stands side by side: few cells are hot ones.
struct Cells {
  i64 base;
  u32 shift, cells, down, copies;
};

// counts[cell] += 1 of each value, the negative values' cells behind the others'; pairs[octet, octet] += 1 of values
// 2j and 2j + 1; and of values in the first cells small[exponent field] += 1.
template <class Lane>
__device__ __forceinline__ void cells(const Values<Lane>& x, const Cells& how, const u8* octets, u64* counts, u64* pairs,
                                      u64* small) {
  typedef typename Values<Lane>::Bits Bits;
  constexpr Bits MAGNITUDE = (Bits(1) << Values<Lane>::sign) - 1;
  const Here at = here();
  const u32 copy = threadIdx.x % how.copies;
#pragma unroll 1
  for (u32 j = 0; j < OWN / 2; ++j) {
    const u64 i = at.block * BLOCK + 2 * (at.first + j * STEP);
    u32 octet[2];
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const Bits bits = x.bits(i + k), m = bits & MAGNITUDE;
      const i64 number = i64(m >> how.shift) - how.base;
      const u32 cell = number < 0 ? 0 : number < how.cells ? u32(number) : how.cells - 1;
      const u32 place = cell + (bits >> Values<Lane>::sign ? how.cells : 0);
      atomicAdd(counts + u64(place) * how.copies + copy, 1ull);
      if (cell == 0) atomicAdd(small + (m >> Values<Lane>::mantissa), 1ull);
      octet[k] = octets[place >> how.down];
    }
    atomicAdd(pairs + 256 * octet[0] + octet[1], 1ull);
  }
}

// found[exponent field, last bits of the mantissa] += 1 of each value, in the dtype's own bits.
template <class Lane>
__device__ __forceinline__ void last(const Lane* raw, u32 mantissa, u32 classes, u32 copies, u64* found) {
  constexpr Lane MAGNITUDE = Lane(~(Lane(1) << (8 * sizeof(Lane) - 1)));
  const Here at = here();
  const u32 copy = threadIdx.x % copies;
#pragma unroll 1
  for (u32 j = 0; j < OWN; ++j) {
    const Lane m = raw[at.block * BLOCK + at.first + j * STEP] & MAGNITUDE;
    atomicAdd(found + (u64(m >> mantissa) * classes + u32(m % classes)) * copies + copy, 1ull);
  }
}

#define WIDTH(width, Lane)                                                                                            \
  KERNEL powers_##width(const Lane* raw, const u32* wide, double middle, double inverse, float* z,                    \
                                            double* sums, u64 slots) {                                                \
    powers<Lane>({raw, wide}, middle, inverse, z, sums, slots);                                                       \
  }                                                                                                                   \
  KERNEL levels_##width(const Lane* raw, const u32* wide, const Limits limits, u64* found,                            \
                                            u64 slots) {                                                              \
    levels<Lane>({raw, wide}, limits, found, slots);                                                                  \
  }                                                                                                                   \
  KERNEL cells_##width(const Lane* raw, const u32* wide, const Cells how, const u8* octets,                           \
                                           u64* counts, u64* pairs, u64* small) {                                     \
    cells<Lane>({raw, wide}, how, octets, counts, pairs, small);                                                      \
  }                                                                                                                   \
  KERNEL last_##width(const Lane* raw, u32 mantissa, u32 classes, u32 copies, u64* found) {                           \
    last<Lane>(raw, mantissa, classes, copies, found);                                                                \
  }
WIDTH(8, u8)
WIDTH(16, u16)
WIDTH(32, u32)
WIDTH(64, u64)

__device__ __forceinline__ float square(float z, float inverse) { return (z * z - 1.0f) * inverse; }

// For each lag, sums += the sum of z[i] * z[i + lag]; behind all of these, the same of the squares. Of a thread's
// values in float32, whose rounding is nothing beside their noise.
KERNEL lags(const float* z, float inverse, double* sums, u64 slots) {
  constexpr u32 LAG[] = {LAGS};
  constexpr int COUNT = sizeof(LAG) / sizeof(LAG[0]);
  const Here at = here();
  const float* const block = z + at.block * BLOCK;
  float values[COUNT] = {}, squares[COUNT] = {};
#pragma unroll 1
  for (u32 i = at.first; i < BLOCK; i += STEP) {
    const float own = block[i], own_square = square(own, inverse);
#pragma unroll
    for (int k = 0; k < COUNT; ++k) {
      if (i + LAG[k] < BLOCK) {
        const float other = block[i + LAG[k]];
        values[k] += own * other;
        squares[k] += own_square * square(other, inverse);
      }
    }
  }
#pragma unroll
  for (int k = 0; k < COUNT; ++k) {
    add(sums, slots, at, k, values[k]);
    add(sums, slots, at, COUNT + k, squares[k]);
  }
}

// Sums of products of values and of squares, of blocks that lie so many blocks apart in each stream.
KERNEL beside(const float* a, u32 apart_a, const float* b, u32 apart_b, float inverse, double* sums,
                                  u64 slots) {
  const Here at = here();
  const float* const one = a + at.block * apart_a * BLOCK;
  const float* const other = b + at.block * apart_b * BLOCK;
  float values = 0, squares = 0;
#pragma unroll 1
  for (u32 i = at.first; i < BLOCK; i += STEP) {
    values += one[i] * other[i];
    squares += square(one[i], inverse) * square(other[i], inverse);
  }
  add(sums, slots, at, 0, values);
  add(sums, slots, at, 1, squares);
}

constexpr u32 PUT = 1000;
struct Part {
  u32 word[PUT];
};
KERNEL put(u32* to, const __grid_constant__ Part part, u32 count) {
  const u32 i = blockIdx.x * THREADS + threadIdx.x;
  if (i < count) to[i] = part.word[i];
}

#define FLAW(name, statement)                                                                                         \
  KERNEL name(float* values, float by) {                                                                              \
    const Here at = here();                                                                                           \
    float* const x = values + at.block * BLOCK;                                                                       \
    for (u32 i = at.first; i < BLOCK; i += STEP) statement;                                                           \
  }
FLAW(swapped, if (i % 4 >= 2) x[i] = x[i % 4 == 2 ? i - 1 : i - 3])
FLAW(floored, x[i] = floorf(x[i] * by) / by)
FLAW(centred, x[i] = (floorf(x[i] * by) + 0.5f) / by)
FLAW(scaled, x[i] = x[i] * by)
FLAW(clipped, x[i] = fminf(fmaxf(x[i], -by), by))
FLAW(evened, if (i % 256 == 0) x[i] = __uint_as_float(__float_as_uint(x[i]) & ~1u))
FLAW(spoiled, if (i == BLOCK / 2) x[i] = __uint_as_float(0x7fc00000u))
