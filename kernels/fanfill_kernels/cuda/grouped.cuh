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
__device__ __forceinline__ Keys keys_of(const Table<Values>& table, const Item<Values>& item) {
  Keys keys;
#pragma unroll
  for (int r = 0; r < 2 * ROUNDS; ++r) keys.round[r] = table.round[r];
  keys.second_c2 = item.second_c2;
  keys.third_c0 = item.third_c0;
  keys.third_c2 = item.third_c2;
  keys.fourth_c2 = item.fourth_c2;
  return keys;
}

template <class Values>
__device__ __forceinline__ Run run_of(const Item<Values>& item) {
  return {item.count, item.block, item.head, item.lead, item.whole};
}

template <class Values>
__device__ __forceinline__ void grouped(const Table<Values>& table) {
  typedef Grouping<Values> G;
  typedef typename Values::Lane Lane;
  // The last item whose first thread block is not behind this one.
  u32 k = 0;
#pragma unroll
  for (u32 step = items<Values>() / 2; step > 0; step /= 2) {
    if (table.first[k + step] <= blockIdx.x) k += step;
  }
  u32 chunk = (blockIdx.x - table.first[k]) * table.turns;
  const u32 end = min(chunk + table.turns, chunks_of<Values>(run_of(table.item[k])));
  const u32 whole = min(end, table.item[k].whole);
  if (chunk < whole) {
    const Item<Values>& item = table.item[k];
    const Values make = item.make;
    const u32 mine = item.lead + threadIdx.x;
    whole_chunks(reinterpret_cast<Lane*>(item.pointer), chunk * G::chunk + mine, G::chunk, whole * G::chunk + mine,
                 run_of(item), keys_of(table, item), make);
    chunk = whole;
  }
  // Seldom more than one thread block of an item goes on from here. The others need not keep in registers what the
  // rest is made from: it is read again, as of an item that might be another one.
  asm volatile("" : "+r"(k));
#pragma unroll 1
  for (; chunk < end; ++chunk) {
    const Item<Values>& item = table.item[k];
    const Values make = item.make;
    other_chunk(reinterpret_cast<Lane*>(item.pointer), chunk, run_of(item), keys_of(table, item), make);
  }
}

// Thread blocks of a multiprocessor: float64's longest form and what it has of a table take 48 registers.
template <class Values>
constexpr int beside_table =
    sizeof(typename Values::Lane) == 8 && Values::side == 1 && Values::resident > 5 ? 5 : Values::resident;

#define KERNELS(name, ...)                                                               \
  typedef __VA_ARGS__ Values_##name;                                                     \
  extern "C" __global__ void __launch_bounds__(THREADS, beside_table<Values_##name>)     \
      grouped_##name(const __grid_constant__ Table<Values_##name> table) {               \
    grouped<Values_##name>(table);                                                       \
  }
