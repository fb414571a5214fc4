// Exports of the kernels and of what makes their values, for ctypes. SOURCE is the joined text of the kernels;
// NAMES a file of the lines EXPORT(name), and EXPORT_BOX(name) where boxes are wanted too.
#include "shim.h"
#include SOURCE

// The arguments are an array of pointers, as cuLaunchKernel takes them.
template <class... Parameters, std::size_t... I>
static void call(void (*kernel)(Parameters...), void** arguments, std::index_sequence<I...>) {
  kernel(*static_cast<std::remove_const_t<Parameters>*>(arguments[I])...);
}

// Of a launch's thread blocks those from `first` on run, up to `end`.
static unsigned first_block = 0, end_block = ~0u;

extern "C" void run_only(unsigned first, unsigned end) { first_block = first, end_block = end; }

template <class... Parameters>
static void launch(void (*kernel)(Parameters...), unsigned blocks, unsigned threads, void** arguments) {
  gridDim.x = blocks;
  for (blockIdx.x = first_block; blockIdx.x < std::min(blocks, end_block); ++blockIdx.x)
    for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x)
      call(kernel, arguments, std::index_sequence_for<Parameters...>{});
}

// The values of blocks of given words.
template <class Values>
static void values_of(const u32* words, u64 blocks, const void* make, u32* out) {
  for (u64 b = 0; b < blocks; ++b) {
    u32 block[WORDS], pieces[Values::pieces];
    std::copy_n(words + b * WORDS, WORDS, block);
    static_cast<const Values*>(make)->template operator()<1>(block, pieces);
    std::copy_n(pieces, Values::pieces, out + b * Values::pieces);
  }
}

#define EXPORT(name)                                                                                        \
  extern "C" void launch_run_##name(unsigned blocks, unsigned threads, void** arguments) {                 \
    launch(run_##name, blocks, threads, arguments);                                                        \
  }                                                                                                        \
  extern "C" void values_##name(const u32* words, u64 blocks, const void* make, u32* out) {                \
    values_of<Values_##name>(words, blocks, make, out);                                                    \
  }
#define EXPORT_BOX(name)                                                                                    \
  extern "C" void launch_box_##name(unsigned blocks, unsigned threads, void** arguments) {                 \
    launch(box_##name, blocks, threads, arguments);                                                        \
  }
#include NAMES
