// The kernels: which elements a thread makes, and how they reach memory.
//
// run_<form>_<dtype>   consecutive elements in consecutive memory, by 16-byte stores
// box_<form>_<dtype>   a box of a tensor, in memory of any strides and alignment
//
// or, where GROUPED is defined, those of grouped.cuh.
//
// The values depend on the elements' indices alone; a thread makes all the values of whole Philox blocks. The
// dtypes are stored as unsigned integers of their width, lanes. geometry.py launches the kernels.

#include "philox.cuh"
#include "arithmetic.cuh"
#include "arithmetic64.cuh"
#include "narrow.cuh"

constexpr u32 THREADS = 256;
constexpr int STORE = 16;  // bytes of the widest store
constexpr int AXES = 16;

// Thread blocks that a multiprocessor of 2048 threads holds at once: all of them fit with 32 registers a thread,
// three quarters with 40, which is what 64-bit values take.
constexpr int ROOMY = 8;
constexpr int CRAMPED = 6;

// What a run is, beside its pointer and keys. A group is what one 16-byte store holds; groups are numbered
// from that of the first element, which may begin before it.
struct Run {
  u64 count;  // elements
  u32 block;  // lower half of the number of the Philox block where group 0 begins; no carry in this launch
  u32 head;   // elements of group 0 that lie before the first
  u32 lead;   // groups before the first whole one: 0 or 1
  u32 whole;  // threads from `lead` on whose groups are all whole
};

struct Axis {
  u64 count, magic;  // magic, shift: n / count = umul64hi(4 n, magic) >> shift for n < 2^62
  u64 pitch;         // step of the element's index
  i64 stride;        // step of the address in bytes
  u32 shift, unused;
};

// A thread makes the elements of one Philox block that lie on one row: a line of `length` consecutive elements,
// `step` bytes apart. Thread numbers count the axes' places, the last axis fastest; the axis `row` counts the
// blocks of a row, and moves nothing by itself.
struct Box {
  u64 threads, first;  // all there are, and that of this launch
  u64 start;           // index of the element at place 0 of every axis
  u64 length;
  i64 step;
  u32 rank, row;
  Axis axis[AXES];
};

// A form makes values of N words. One value a word:
#define SINGLE(Form, Parameters, function, SIDE)                                                \
  struct Form {                                                                                 \
    static constexpr int side = SIDE;                                                           \
    arithmetic::Parameters p;                                                                   \
    template <int N>                                                                            \
    __device__ __forceinline__ void operator()(const u32 (&words)[N], f32 (&values)[N]) const { \
      _Pragma("unroll") for (int n = 0; n < N; ++n) values[n] = function(words[n], p);          \
    }                                                                                           \
  };
SINGLE(Uniform, Uniform, arithmetic::uniform, 2)
SINGLE(UniformClamped, UniformClamped, arithmetic::uniform_clamped, 2)
SINGLE(UniformRange, UniformRange, arithmetic::uniform_range, 2)
SINGLE(UniformRangeToOdd, UniformRange, arithmetic::uniform_range_to_odd, 2)
SINGLE(TruncatedCentral, TruncatedCentral, arithmetic::truncated_central, 2)
SINGLE(Truncated, Truncated, arithmetic::truncated, 1)

struct Words {
  static constexpr int side = 2;
  template <int N>
  __device__ __forceinline__ void operator()(const u32 (&words)[N], u32 (&values)[N]) const {
#pragma unroll
    for (int n = 0; n < N; ++n) values[n] = words[n];
  }
};

struct Normal {
  static constexpr int side = 2;
  arithmetic::Normal p;
  template <int N>
  __device__ __forceinline__ void operator()(const u32 (&words)[N], f32 (&values)[N]) const {
    arithmetic::box_muller<N / 2>(words, p, values);
  }
};

// float64: a value takes two words.
__device__ __forceinline__ u64 double_word(u32 low, u32 high) { return low | u64(high) << 32; }

#define DOUBLE(Form, Parameters, function, SIDE)                                                               \
  struct Form {                                                                                                \
    static constexpr int side = SIDE;                                                                          \
    arithmetic64::Parameters p;                                                                                \
    template <int N>                                                                                           \
    __device__ __forceinline__ void operator()(const u32 (&words)[2 * N], f64 (&values)[N]) const {            \
      _Pragma("unroll") for (int n = 0; n < N; ++n) values[n] =                                                \
          function(double_word(words[2 * n], words[2 * n + 1]), p);                                            \
    }                                                                                                          \
  };
DOUBLE(Uniform64, Uniform, arithmetic64::uniform, 2)
DOUBLE(UniformClamped64, UniformClamped, arithmetic64::uniform_clamped, 2)
DOUBLE(UniformRange64, UniformRange, arithmetic64::uniform_range, 2)
DOUBLE(TruncatedCentral64, TruncatedCentral, arithmetic64::truncated_central, 2)
DOUBLE(Truncated64, Truncated, arithmetic64::truncated, 1)

struct Normal64 {
  static constexpr int side = 2;
  arithmetic64::Normal p;
  template <int N>
  __device__ __forceinline__ void operator()(const u32 (&words)[2 * N], f64 (&values)[N]) const {
#pragma unroll
    for (int n = 0; n < N; n += 2) {
      const arithmetic64::Pair pair = arithmetic64::box_muller(
          double_word(words[2 * n], words[2 * n + 1]), double_word(words[2 * n + 2], words[2 * n + 3]), p);
      values[n] = pair.even;
      values[n + 1] = pair.odd;
    }
  }
};

// A form for a dtype: the values of N blocks as 32-bit pieces.
template <class Form, class Dtype, class Value, int VALUES>
struct Made {
  typedef typename Dtype::Lane Lane;
  static constexpr int values = VALUES;
  static constexpr int pieces = VALUES * int(sizeof(Lane)) / 4;
  static constexpr int side = Form::side;
  static constexpr int resident = VALUES == 2 ? CRAMPED : ROOMY;
  Form form;
  template <int N>
  __device__ __forceinline__ void operator()(const u32 (&words)[N * WORDS], u32 (&out)[N * pieces]) const {
    Value made[N * VALUES];
    form(words, made);
    Dtype::pack(made, out);
  }
};

// A constant's bits; no words.
template <class Bits>
struct Constant {
  typedef Bits Lane;
  static constexpr int values = sizeof(Lane) == 8 ? 2 : WORDS;
  static constexpr int pieces = values * int(sizeof(Lane)) / 4;
  static constexpr int side = 2;
  static constexpr int resident = ROOMY;
  Bits bits;
  template <int N>
  __device__ __forceinline__ void operator()(const u32 (&)[N * WORDS], u32 (&out)[N * pieces]) const {
#pragma unroll
    for (int j = 0; j < N * pieces; ++j) {
      if constexpr (sizeof(Lane) == 8) out[j] = u32(bits >> 32 * (j % 2));
      if constexpr (sizeof(Lane) == 4) out[j] = bits;
      if constexpr (sizeof(Lane) == 2) out[j] = bits * 0x10001u;
      if constexpr (sizeof(Lane) == 1) out[j] = bits * 0x1010101u;
    }
  }
};

// Value j of those in some pieces.
template <class Lane>
__device__ __forceinline__ Lane lane(const u32* pieces, int j) {
  if constexpr (sizeof(Lane) == 8) {
    return pieces[2 * j] | u64(pieces[2 * j + 1]) << 32;
  } else {
    constexpr int IN_PIECE = 4 / int(sizeof(Lane));
    return Lane(pieces[j / IN_PIECE] >> 32 / IN_PIECE * (j % IN_PIECE));
  }
}

// 16 bytes take 1 block, or 2 or 4 of narrow values; a thread makes two stores' worth of the former. Some blocks
// go side by side, as many as the registers hold: their chains of multiplications overlap, and keys, constants
// and index work are shared.
template <class Values>
__device__ __forceinline__ void run(typename Values::Lane* out, const Run& span, const Keys& keys, const Values& make) {
  typedef typename Values::Lane Lane;
  constexpr int BLOCKS = 4 / Values::pieces;
  constexpr int GROUP = BLOCKS * Values::values;
  constexpr int GROUPS = BLOCKS == 1 ? 2 : 1;  // THREADS apart, so that a warp's stores are side by side
  constexpr int SIDE = Values::side;
  const u32 first = blockIdx.x * (THREADS * GROUPS) + threadIdx.x;
  constexpr int PART = SIDE * Values::pieces;
  u32 pieces[GROUPS * 4];
#pragma unroll 1
  for (int n = 0; n < GROUPS * BLOCKS; n += SIDE) {
    constexpr u32 STEP = GROUPS == 1 ? 1 : THREADS;
    u32 words[SIDE * WORDS], part[PART];
    philox_low<SIDE>(span.block + first * BLOCKS + n * STEP, STEP, keys, words);
    make.template operator()<SIDE>(words, part);
    // Pieces are in registers, which have no index: new ones push the others down.
#pragma unroll
    for (int j = PART; j < GROUPS * 4; ++j) pieces[j - PART] = pieces[j];
#pragma unroll
    for (int j = 0; j < PART; ++j) pieces[GROUPS * 4 - PART + j] = part[j];
  }
  if (first - span.lead < span.whole) {
#pragma unroll
    for (int g = 0; g < GROUPS; ++g) {
      reinterpret_cast<uint4*>(out)[u64(first) + g * THREADS] =
          make_uint4(pieces[4 * g], pieces[4 * g + 1], pieces[4 * g + 2], pieces[4 * g + 3]);
    }
    return;
  }
  // Groups that may not be whole, and those after the last.
#pragma unroll
  for (int g = 0; g < GROUPS; ++g) {
#pragma unroll
    for (int j = 0; j < GROUP; ++j) {
      const u64 place = (u64(first) + g * THREADS) * GROUP + j;
      if (place - span.head < span.count) out[place] = lane<Lane>(pieces + 4 * g, j);
    }
  }
}

// The block's values as one store of 4, 8 or 16 bytes.
template <int PIECES>
__device__ __forceinline__ void store(void* out, const u32 (&pieces)[PIECES]) {
  if constexpr (PIECES == 4) *static_cast<uint4*>(out) = make_uint4(pieces[0], pieces[1], pieces[2], pieces[3]);
  if constexpr (PIECES == 2) *static_cast<uint2*>(out) = make_uint2(pieces[0], pieces[1]);
  if constexpr (PIECES == 1) *static_cast<u32*>(out) = pieces[0];
}

template <class Values>
__device__ __forceinline__ void box(typename Values::Lane* out, const Box& box, const Keys& keys, const Values& make) {
  typedef typename Values::Lane Lane;
  constexpr int VALUES = Values::values;
  u64 rest = box.first + u64(blockIdx.x) * THREADS + threadIdx.x;
  if (rest >= box.threads) return;
  u64 index = box.start;
  u64 block = 0;
  u8* address = reinterpret_cast<u8*>(out);
  for (u32 k = box.rank; k-- > 0;) {
    const Axis& axis = box.axis[k];
    const u64 above = k == 0 ? 0 : __umul64hi(4 * rest, axis.magic) >> axis.shift;
    const u64 place = rest - above * axis.count;
    rest = above;
    index += place * axis.pitch;
    address += i64(place) * axis.stride;
    if (k == box.row) block = place;
  }
  block += index / VALUES;
  // Where on the row the block begins: before it, if the row begins inside the block, which wraps around.
  const u64 begin = block * VALUES - index;
  address += i64(begin) * box.step;
  u32 words[WORDS];
  philox(block, keys, words);
  u32 pieces[Values::pieces];
  make.template operator()<1>(words, pieces);
  constexpr int BYTES = VALUES * int(sizeof(Lane));
  const bool together = box.step == i64(sizeof(Lane)) && (u64(address) & (BYTES - 1)) == 0;
  if (together && begin < box.length && box.length - begin >= VALUES) {
    store(address, pieces);
    return;
  }
#pragma unroll
  for (int j = 0; j < VALUES; ++j) {
    if (begin + j < box.length) *reinterpret_cast<Lane*>(address + j * box.step) = lane<Lane>(pieces, j);
  }
}

#ifdef GROUPED
#include "grouped.cuh"
#else
// Both kernels of a form and dtype. The recipe's parameters are one struct.
#define KERNELS(name, ...)                                                                                  \
  typedef __VA_ARGS__ Values_##name;                                                                        \
  extern "C" __global__ void __launch_bounds__(THREADS, Values_##name::resident)                                                     \
      run_##name(Values_##name::Lane* out, const Run span, const Keys keys, const Values_##name make) {     \
    run(out, span, keys, make);                                                                             \
  }                                                                                                         \
  extern "C" __global__ void __launch_bounds__(THREADS, Values_##name::resident)                                                     \
      box_##name(Values_##name::Lane* out, const __grid_constant__ Box region, const Keys keys,             \
                 const Values_##name make) {                                                                \
    box(out, region, keys, make);                                                                           \
  }
#endif

// A form for all dtypes: that of float32, of the narrow types, and of float64.
#define FORMS(name, Form, NarrowForm, Form64)                                          \
  KERNELS(name##_float32, Made<Form, narrow::Float32, f32, WORDS>)                     \
  KERNELS(name##_float16, Made<NarrowForm, narrow::Float16, f32, WORDS>)               \
  KERNELS(name##_bfloat16, Made<NarrowForm, narrow::Bfloat16, f32, WORDS>)             \
  KERNELS(name##_float8_e4m3fn, Made<NarrowForm, narrow::Float8E4m3fn, f32, WORDS>)    \
  KERNELS(name##_float8_e5m2, Made<NarrowForm, narrow::Float8E5m2, f32, WORDS>)        \
  KERNELS(name##_float8_e4m3fnuz, Made<NarrowForm, narrow::Float8E4m3fnuz, f32, WORDS>) \
  KERNELS(name##_float8_e5m2fnuz, Made<NarrowForm, narrow::Float8E5m2fnuz, f32, WORDS>) \
  KERNELS(name##_float64, Made<Form64, narrow::Float64, f64, 2>)

#ifndef GROUPED
KERNELS(words_uint32, Made<Words, narrow::Uint32, u32, WORDS>)
#endif
KERNELS(uniform_float32, Made<Uniform, narrow::Float32, f32, WORDS>)
KERNELS(uniform_float64, Made<Uniform64, narrow::Float64, f64, 2>)
FORMS(uniform_clamped, UniformClamped, UniformClamped, UniformClamped64)
FORMS(uniform_range, UniformRange, UniformRangeToOdd, UniformRange64)
FORMS(normal, Normal, Normal, Normal64)
FORMS(truncated_central, TruncatedCentral, TruncatedCentral, TruncatedCentral64)
FORMS(truncated, Truncated, Truncated, Truncated64)
KERNELS(constant_8, Constant<u8>)
KERNELS(constant_16, Constant<u16>)
KERNELS(constant_32, Constant<u32>)
KERNELS(constant_64, Constant<u64>)
