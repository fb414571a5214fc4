// Many tensors in one launch. A table in the kernel's parameters says where each lies and what it gets: nothing is
// allocated, copied or waited for, and a captured graph has a copy of its own. All tensors of a launch have one seed,
// form and dtype, and each is a run.
//
// grouped_<form>_<dtype>   in place of the kernels of one tensor where GROUPED is defined; see choice.py

// What the parameters of a launch may take: PARAMETERS, 32,764 bytes from CUDA 12.1 on, 4,096 before.
template <class Values>
struct Item {
  u64 pointer;  // of group 0
  u64 count;
  u32 block, head, lead;  // as in Run
  u32 whole;              // chunks that are whole, from group `lead` on
  u32 second_c2, third_c0, third_c2, fourth_c2;  // as in Keys
  Values make;
};

// As many as a table holds: a power of two, since the search halves.
template <class Values>
__device__ constexpr u32 items() {
  u32 n = 1;
  while (4 * (2 * ROUNDS + 2) + 2 * n * (4 + sizeof(Item<Values>)) <= PARAMETERS) n *= 2;
  return n;
}

template <class Values>
struct Table {
  u32 round[2 * ROUNDS];
  u32 turns, unused;  // chunks of a thread block: it looks up its tensor and fetches the keys once for them
  u32 first[items<Values>()];  // an item's first thread block; 2^32 - 1 behind the last item
  Item<Values> item[items<Values>()];
};

template <class Values>
__device__ __forceinline__ void grouped(const Table<Values>& table) {
  typedef Grouping<Values> G;
  // The last item whose first thread block is not behind this one.
  u32 k = 0;
#pragma unroll
  for (u32 step = items<Values>() / 2; step > 0; step /= 2) {
    if (table.first[k + step] <= blockIdx.x) k += step;
  }
  const Item<Values>& item = table.item[k];
  Keys keys;
#pragma unroll
  for (int r = 0; r < 2 * ROUNDS; ++r) keys.round[r] = table.round[r];
  keys.second_c2 = item.second_c2;
  keys.third_c0 = item.third_c0;
  keys.third_c2 = item.third_c2;
  keys.fourth_c2 = item.fourth_c2;
  const Values make = item.make;
  const Run span = {item.count, item.block, item.head, item.lead, item.whole};
  typename Values::Lane* const out = reinterpret_cast<typename Values::Lane*>(item.pointer);
  // The whole chunks, then group 0 if elements begin inside it, then what is less than a chunk.
  const u64 stop = span.head + span.count;
  const u32 rest = (u64(span.whole) * G::chunk + span.lead) * G::group < stop;
  u32 chunk = (blockIdx.x - table.first[k]) * table.turns;
  const u32 end = min(chunk + table.turns, span.whole + span.lead + rest);
#pragma unroll 1
  for (; chunk < end; ++chunk) {
    const bool whole = chunk < span.whole;
    const bool leads = !whole && chunk - span.whole < span.lead;
    const u32 first = leads ? threadIdx.x : min(chunk, span.whole) * G::chunk + span.lead + threadIdx.x;
    u32 pieces[G::groups * 4];
    G::make(first, span, keys, make, pieces);
    if (whole) {
      G::store_whole(out, first, pieces);
    } else {
      G::store_part(out, first, span.head, (leads ? min(stop, u64(G::group)) : stop) - span.head, pieces);
    }
  }
}

#define KERNELS(name, ...)                                                               \
  typedef __VA_ARGS__ Values_##name;                                                     \
  extern "C" __global__ void __launch_bounds__(THREADS, Values_##name::resident)         \
      grouped_##name(const __grid_constant__ Table<Values_##name> table) {               \
    grouped<Values_##name>(table);                                                       \
  }
