// Philox4x32-10, the counter-based generator of philox.py, on 32-bit words.
//
// Round keys come from the host as kernel parameters: they are constants to every instruction that reads them.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int i32;
typedef long long i64;
typedef float f32;
typedef double f64;

constexpr u32 M0 = 0xD2511F53u;
constexpr u32 M1 = 0xCD9E8D57u;
constexpr int HALF = 32;
constexpr int ROUNDS = 10;
constexpr int WORDS = 4;  // in a block

// What is the same for all blocks of a launch; fanfill_kernels.cuda.keys makes it.
struct Keys {
  u32 round[2 * ROUNDS];  // k0 and k1 of round r at 2r and 2r + 1
  u32 sub_low, sub_high;
  // For launches whose blocks share the upper half of their number, see philox_low: what two rounds make of
  // the words of the counter that are then constants.
  u32 second_c2, third_c0, third_c2, fourth_c2;
};

struct Block {
  u32 c0, c1, c2, c3;
};

__device__ __forceinline__ Block round(const Block& c, u32 k0, u32 k1) {
  const u64 p0 = u64(M0) * c.c0;
  const u64 p1 = u64(M1) * c.c2;
  return {u32(p1 >> HALF) ^ c.c1 ^ k0, u32(p1), u32(p0 >> HALF) ^ c.c3 ^ k1, u32(p0)};
}

__device__ __forceinline__ void write(const Block& c, u32* words) {
  words[0] = c.c0;
  words[1] = c.c1;
  words[2] = c.c2;
  words[3] = c.c3;
}

// The words of a block anywhere.
__device__ __forceinline__ void philox(u64 block, const Keys& keys, u32 (&words)[WORDS]) {
  Block c = {u32(block), u32(block >> HALF), keys.sub_low, keys.sub_high};
#pragma unroll
  for (int r = 0; r < ROUNDS; ++r) c = round(c, keys.round[2 * r], keys.round[2 * r + 1]);
  write(c, words);
}

// The words of N blocks, `step` apart from that with this lower half of its number. The other words of the
// counter are constants of the launch, and a constant word reaches the three others in three rounds: of the 40
// instructions of ten rounds that leaves 37. The blocks go through the rounds side by side, so that a round's
// keys are fetched once, and their chains of multiplications overlap.
template <int N>
__device__ __forceinline__ void philox_low(u32 low, u32 step, const Keys& keys, u32 (&words)[N * WORDS]) {
  Block blocks[N];
#pragma unroll
  for (int n = 0; n < N; ++n) {
    const u64 first = u64(M0) * (low + n * step);
    const u64 second = u64(M1) * (u32(first >> HALF) ^ keys.second_c2);
    blocks[n] = {u32(second >> HALF) ^ keys.third_c0, u32(second), u32(first) ^ keys.third_c2, 0};
  }
#pragma unroll
  for (int n = 0; n < N; ++n) blocks[n] = round(blocks[n], keys.round[4], keys.fourth_c2);
#pragma unroll
  for (int r = 3; r < ROUNDS; ++r) {
#pragma unroll
    for (int n = 0; n < N; ++n) blocks[n] = round(blocks[n], keys.round[2 * r], keys.round[2 * r + 1]);
  }
#pragma unroll
  for (int n = 0; n < N; ++n) write(blocks[n], words + n * WORDS);
}
