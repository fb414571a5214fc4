// Kernels that read their seed from device memory, and make the round keys themselves. Whoever launches them need not
// know the seed: nothing is copied to the host or waited for, and a captured graph draws anew whenever that memory
// has changed.
//
// keyed_run_<form>_<dtype>, keyed_box_<form>_<dtype>   in place of the others where KEYED is defined; see choice.py

constexpr u32 W0 = 0x9E3779B9u;
constexpr u32 W1 = 0xBB67AE85u;

// Where the key is, and where a part of a tensor begins.
struct Source {
  const u32* words;    // the seed: its upper half, then its lower half
  const u32* offsets;  // the part's place along each axis of the tensor; not read if `rank` is 0
  u64 pitch[AXES];     // step of the element's index along the axis `axis[k]`
  u32 axis[AXES];
  u32 rank;            // axes along which the part may begin elsewhere than at 0
  u32 sub_low, sub_high;
  u32 above;  // upper half of the numbers of all Philox blocks of a run
};

// What geometry.py's `rounds_of` and `key_words` make of a seed that is known.
__device__ __forceinline__ Keys keys_of(const Source& source) {
  const u32 high = source.words[0], low = source.words[1];
  Keys keys;
#pragma unroll
  for (int r = 0; r < ROUNDS; ++r) {
    keys.round[2 * r] = low + u32(r) * W0;
    keys.round[2 * r + 1] = high + u32(r) * W1;
  }
  keys.sub_low = source.sub_low;
  keys.sub_high = source.sub_high;
  const u64 first = u64(M1) * source.sub_low;
  const u64 second = u64(M0) * (u32(first >> HALF) ^ source.above ^ keys.round[0]);
  keys.second_c2 = source.sub_high ^ keys.round[1];
  keys.third_c0 = u32(first) ^ keys.round[2];
  keys.third_c2 = u32(second >> HALF) ^ keys.round[3];
  keys.fourth_c2 = u32(second) ^ keys.round[5];
  return keys;
}

// The index in the tensor of the part's first element.
__device__ __forceinline__ u64 start_of(const Source& source) {
  u64 start = 0;
#pragma unroll 1
  for (u32 k = 0; k < source.rank; ++k) start += source.offsets[source.axis[k]] * source.pitch[k];
  return start;
}

// Thread blocks of a multiprocessor: round keys that a thread makes itself lie in registers, so what goes from chunk to
// chunk gets 40 of them.
template <class Values>
constexpr int beside_keys = Values::strided && Values::resident > CRAMPED ? CRAMPED : Values::resident;

// Both kernels of a form and dtype. A run whose part may begin anywhere begins where a Philox block and 16 bytes do,
// and all its blocks' numbers are below 2^32; what is not so is a box.
#define KERNELS(name, ...)                                                                                        \
  typedef __VA_ARGS__ Values_##name;                                                                              \
  extern "C" __global__ void __launch_bounds__(THREADS, beside_keys<Values_##name>)                               \
      keyed_run_##name(Values_##name::Lane* out, const Run span, const __grid_constant__ Source source,           \
                       const Values_##name make) {                                                                \
    Run moved = span;                                                                                             \
    moved.block += u32(start_of(source) / Values_##name::values);                                                 \
    run(out, moved, keys_of(source), make);                                                                       \
  }                                                                                                               \
  extern "C" __global__ void __launch_bounds__(THREADS, Values_##name::resident)                                  \
      keyed_box_##name(Values_##name::Lane* out, const __grid_constant__ Box region,                              \
                       const __grid_constant__ Source source, const Values_##name make) {                         \
    box(out, region, region.start + start_of(source), keys_of(source), make);                                     \
  }
