// The kernels: which elements a thread makes, and how they reach memory.
//
// run_<form>_<dtype>   consecutive elements in consecutive memory, by 16-byte stores
// box_<form>_<dtype>   a box of a tensor, in memory of any strides and alignment
//
// or, where GROUPED or KEYED is defined, those of grouped.cuh or keyed.cuh.
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
// three quarters with 40, half of them with 64. What waits for memory wants all of them. What computes wants
// registers sooner than threads: on an H200 normals gained 2 to 4 % from 40 in place of 32, truncated normals 6 % from
// two blocks side by side in 64 (5 % in 48, where narrow types spill on sm_100).
constexpr int ROOMY = 8;
constexpr int CRAMPED = 6;
constexpr int SPARSE = 4;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 750
constexpr int HELD = 4;  // of 1024 threads; an assembler that is asked for more sets no bound at all
#else
constexpr int HELD = ROOMY;
#endif

// What a run is, beside its pointer and keys. A group is what one 16-byte store holds; groups are numbered
// from that of the first element, which may begin before it. A chunk is the groups that a thread block makes at
// once, THREADS of them or twice as many.
struct Run {
  u64 count;  // elements
  u32 block;  // lower half of the number of the Philox block where group 0 begins; no carry in this launch
  u32 head;   // elements of group 0 that lie before the first
  u32 lead;   // groups before the first whole one: 0 or 1
  u32 whole;  // threads from `lead` on whose groups are all whole; of a strided kernel: chunks
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

// A form makes values of N words, those of `side` blocks at once; those that are CLAMPED lie in [p.low, p.high] only
// after that. COSTLY ones take longer to make than to store. One value a word:
constexpr bool CLAMPED = true;
constexpr bool COSTLY = true;
#define SINGLE(Form, Parameters, function, RESIDENT, CLAMPS, COSTS)                             \
  struct Form {                                                                                 \
    static constexpr int side = 2;                                                              \
    static constexpr int resident = RESIDENT;                                                   \
    static constexpr bool clamped = CLAMPS;                                                     \
    static constexpr bool costly = COSTS;                                                       \
    arithmetic::Parameters p;                                                                   \
    template <int N>                                                                            \
    __device__ __forceinline__ void operator()(const u32 (&words)[N], f32 (&values)[N]) const { \
      _Pragma("unroll") for (int n = 0; n < N; ++n) values[n] = function(words[n], p);          \
    }                                                                                           \
  };
SINGLE(Uniform, Uniform, arithmetic::uniform, ROOMY, !CLAMPED, !COSTLY)
SINGLE(UniformClamped, UniformClamped, arithmetic::uniform, ROOMY, CLAMPED, !COSTLY)
SINGLE(UniformRange, UniformRange, arithmetic::uniform_range, ROOMY, CLAMPED, !COSTLY)
SINGLE(UniformRangeToOdd, UniformRange, arithmetic::uniform_range_to_odd, ROOMY, CLAMPED, !COSTLY)
SINGLE(TruncatedCentral, TruncatedCentral, arithmetic::truncated_central, CRAMPED, CLAMPED, COSTLY)
SINGLE(Truncated, Truncated, arithmetic::truncated, SPARSE, CLAMPED, COSTLY)

struct Words {
  static constexpr int side = 2;
  static constexpr int resident = ROOMY;
  static constexpr bool clamped = !CLAMPED;
  static constexpr bool costly = !COSTLY;
  template <int N>
  __device__ __forceinline__ void operator()(const u32 (&words)[N], u32 (&values)[N]) const {
#pragma unroll
    for (int n = 0; n < N; ++n) values[n] = words[n];
  }
};

template <class Parameters>
struct BoxMuller {
  static constexpr int side = 2;
  static constexpr int resident = CRAMPED;
  static constexpr bool clamped = !CLAMPED;
  static constexpr bool costly = COSTLY;
  Parameters p;
  template <int N>
  __device__ __forceinline__ void operator()(const u32 (&words)[N], f32 (&values)[N]) const {
    arithmetic::box_muller<N / 2>(words, p, values);
  }
};
typedef BoxMuller<arithmetic::Normal> Normal;
typedef BoxMuller<arithmetic::NormalCentred> NormalCentred;

// float64: a value takes two words.
__device__ __forceinline__ u64 double_word(u32 low, u32 high) { return low | u64(high) << 32; }

#define DOUBLE(Form, Parameters, function, SIDE, CLAMPS)                                                       \
  struct Form {                                                                                                \
    static constexpr int side = SIDE;                                                                          \
    static constexpr int resident = CRAMPED;                                                                   \
    static constexpr bool clamped = CLAMPS;                                                                    \
    static constexpr bool costly = !COSTLY;                                                                    \
    arithmetic64::Parameters p;                                                                                \
    template <int N>                                                                                           \
    __device__ __forceinline__ void operator()(const u32 (&words)[2 * N], f64 (&values)[N]) const {            \
      _Pragma("unroll") for (int n = 0; n < N; ++n) values[n] =                                                \
          function(double_word(words[2 * n], words[2 * n + 1]), p);                                            \
    }                                                                                                          \
  };
DOUBLE(Uniform64, Uniform, arithmetic64::uniform, 2, !CLAMPED)
DOUBLE(UniformClamped64, UniformClamped, arithmetic64::uniform, 2, CLAMPED)
DOUBLE(UniformRange64, UniformRange, arithmetic64::uniform_range, 2, CLAMPED)
DOUBLE(TruncatedCentral64, TruncatedCentral, arithmetic64::truncated_central, 2, CLAMPED)
DOUBLE(Truncated64, Truncated, arithmetic64::truncated, 1, CLAMPED)

template <class Parameters>
struct BoxMuller64 {
  static constexpr int side = 2;
  static constexpr int resident = CRAMPED;
  static constexpr bool clamped = !CLAMPED;
  static constexpr bool costly = !COSTLY;
  Parameters p;
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
typedef BoxMuller64<arithmetic64::Normal> Normal64;
typedef BoxMuller64<arithmetic64::NormalCentred> NormalCentred64;

// A form for a dtype: the values of N blocks as 32-bit pieces.
template <class Form, class Dtype, class Value, int VALUES>
struct Made {
  typedef typename Dtype::Lane Lane;
  static constexpr int values = VALUES;
  static constexpr int pieces = VALUES * int(sizeof(Lane)) / 4;
  // Two blocks of the longest form, and the sixteen values of a store of bytes, do not fit into the registers.
  static constexpr int side = sizeof(Lane) == 1 && Form::resident == SPARSE ? 1 : Form::side;
  static constexpr int resident = Form::resident < HELD ? Form::resident : HELD;
  static constexpr bool strided = Form::costly || sizeof(Lane) < 4;
  Form form;
  template <int N>
  __device__ __forceinline__ void operator()(const u32 (&words)[N * WORDS], u32 (&out)[N * pieces]) const {
    Value made[N * VALUES];
    form(words, made);
    if constexpr (Form::clamped) {
      narrow::pack_within<Dtype>(made, form.p.low, form.p.high, out);
    } else {
      Dtype::pack(made, out);
    }
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
  static constexpr bool strided = false;
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

// How a thread makes 16-byte groups: 1 Philox block each, or 2 or 4 of narrow values; of the former it makes two
// groups, THREADS apart, so that a warp's stores are side by side.
template <class Values>
struct Grouping {
  typedef typename Values::Lane Lane;
  static constexpr int blocks = 4 / Values::pieces;
  static constexpr int group = blocks * Values::values;
  static constexpr int groups = blocks == 1 ? 2 : 1;
  static constexpr u32 chunk = THREADS * groups;

  // Those from group `first` on. Some blocks go side by side, as many as the registers hold: their chains of
  // multiplications overlap, and keys, constants and index work are shared.
  static __device__ __forceinline__ void make(u32 first, const Run& span, const Keys& keys, const Values& values,
                                              u32 (&pieces)[groups * 4]) {
    constexpr int SIDE = Values::side;
    constexpr int PART = SIDE * Values::pieces;
    constexpr u32 STEP = groups == 1 ? 1 : THREADS;
#pragma unroll 1
    for (int n = 0; n < groups * blocks; n += SIDE) {
      u32 words[SIDE * WORDS], part[PART];
      philox_low<SIDE>(span.block + first * blocks + n * STEP, STEP, keys, words);
      values.template operator()<SIDE>(words, part);
      // Pieces are in registers, which have no index: new ones push the others down.
#pragma unroll
      for (int j = PART; j < groups * 4; ++j) pieces[j - PART] = pieces[j];
#pragma unroll
      for (int j = 0; j < PART; ++j) pieces[groups * 4 - PART + j] = part[j];
    }
  }

  static __device__ __forceinline__ void store_whole(Lane* out, u32 first, const u32 (&pieces)[groups * 4]) {
#pragma unroll
    for (int g = 0; g < groups; ++g) {
      reinterpret_cast<uint4*>(out)[u64(first) + g * THREADS] =
          make_uint4(pieces[4 * g], pieces[4 * g + 1], pieces[4 * g + 2], pieces[4 * g + 3]);
    }
  }

  // The elements from `head` on, `count` of them, one by one.
  static __device__ __forceinline__ void store_part(Lane* out, u32 first, u32 head, u64 count,
                                                    const u32 (&pieces)[groups * 4]) {
#pragma unroll
    for (int g = 0; g < groups; ++g) {
#pragma unroll
      for (int j = 0; j < group; ++j) {
        const u64 place = (u64(first) + g * THREADS) * group + j;
        if (place - head < count) out[place] = lane<Lane>(pieces + 4 * g, j);
      }
    }
  }
};

// A thread block a chunk: best for kernels that wait for memory. On an H200 uniform float32 lost a quarter when
// thread blocks went on to further chunks.
template <class Values>
__device__ __forceinline__ void run_chunk(typename Values::Lane* out, const Run& span, const Keys& keys, const Values& values) {
  typedef Grouping<Values> G;
  const u32 first = blockIdx.x * G::chunk + threadIdx.x;
  u32 pieces[G::groups * 4];
  G::make(first, span, keys, values, pieces);
  if (first - span.lead < span.whole) {
    G::store_whole(out, first, pieces);
    return;
  }
  // Groups that may not be whole, and those after the last.
  G::store_part(out, first, span.head, span.count, pieces);
}

// Whole chunks, `step` groups apart: those from group `first` up to `stop`, one at least. `stop` is met exactly, so the
// numbers may pass 2^32 there.
template <class Values>
__device__ __forceinline__ void whole_chunks(typename Values::Lane* out, u32 first, u32 step, u32 stop, const Run& span,
                                             const Keys& keys, const Values& values) {
  typedef Grouping<Values> G;
#pragma unroll 1
  do {
    u32 pieces[G::groups * 4];
    G::make(first, span, keys, values, pieces);
    G::store_whole(out, first, pieces);
    first += step;
  } while (first != stop);
}

// How many chunks there are. Behind the whole ones comes, if the first group is not whole, one of that group alone, and
// then what is left.
template <class Values>
__device__ __forceinline__ u32 chunks_of(const Run& span) {
  typedef Grouping<Values> G;
  const u32 rest = (u64(span.whole) * G::chunk + span.lead) * G::group < span.head + span.count;
  return span.whole + span.lead + rest;
}

// A chunk behind the whole ones.
template <class Values>
__device__ __forceinline__ void other_chunk(typename Values::Lane* out, u32 chunk, const Run& span, const Keys& keys,
                                            const Values& values) {
  typedef Grouping<Values> G;
  const u64 end = span.head + span.count;
  const bool leads = chunk - span.whole < span.lead;
  const u32 first = leads ? threadIdx.x : span.whole * G::chunk + span.lead + threadIdx.x;
  u32 pieces[G::groups * 4];
  G::make(first, span, keys, values, pieces);
  G::store_part(out, first, span.head, (leads ? min(end, u64(G::group)) : end) - span.head, pieces);
}

// A thread block goes from chunk to chunk, a grid apart: keys and constants stay in registers, and fewer thread
// blocks begin and end. Any grid will do.
template <class Values>
__device__ __forceinline__ void run_strided(typename Values::Lane* out, const Run& span, const Keys& keys, const Values& values) {
  typedef Grouping<Values> G;
  u32 chunk = blockIdx.x;
  if (chunk < span.whole) {
    const u32 turns = (span.whole - 1 - chunk) / gridDim.x + 1;
    const u32 first = chunk * G::chunk + span.lead + threadIdx.x, step = gridDim.x * G::chunk;
    whole_chunks(out, first, step, first + turns * step, span, keys, values);
    chunk += turns * gridDim.x;
  }
  const u32 chunks = chunks_of<Values>(span);
#pragma unroll 1
  for (; chunk < chunks; chunk += gridDim.x) other_chunk(out, chunk, span, keys, values);
}

template <class Values>
__device__ __forceinline__ void run(typename Values::Lane* out, const Run& span, const Keys& keys, const Values& values) {
  if constexpr (Values::strided) {
    run_strided(out, span, keys, values);
  } else {
    run_chunk(out, span, keys, values);
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
__device__ __forceinline__ void box(typename Values::Lane* out, const Box& box, u64 start, const Keys& keys, const Values& make) {
  typedef typename Values::Lane Lane;
  constexpr int VALUES = Values::values;
  u64 rest = box.first + u64(blockIdx.x) * THREADS + threadIdx.x;
  if (rest >= box.threads) return;
  u64 index = start;
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

#if defined(GROUPED)
#include "grouped.cuh"
#elif defined(KEYED)
#include "keyed.cuh"
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
    box(out, region, region.start, keys, make);                                                             \
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
FORMS(normal_centred, NormalCentred, NormalCentred, NormalCentred64)
KERNELS(constant_8, Constant<u8>)
KERNELS(constant_16, Constant<u16>)
KERNELS(constant_32, Constant<u32>)
KERNELS(constant_64, Constant<u64>)
