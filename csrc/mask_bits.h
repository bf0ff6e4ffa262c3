// How a seed of 96 bits becomes a dropout mask, entry by entry: the arithmetic that CPU, CUDA and emulation share.
//
// sfc32 (Chris Doty-Humphrey's PractRand) makes 32 random bits, two entries, of eleven additions, shifts and xors. A
// mask is cut into pieces, and each of a piece's 32 lanes is a generator of its own, which starts from the seed and its
// own number: a warp on a GPU, a few vectors on a CPU. So pieces need not know of each other, and what an entry becomes
// depends on the seed and its place only.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace rnndrop {

constexpr int64_t kMaskLanes = 32;
constexpr int64_t kMaskStep = 2 * kMaskLanes;  // entries: the upper halves of all lanes' words, then the lower ones
constexpr int64_t kMaskPiece = 128 * kMaskStep;
constexpr int64_t kMaxMaskEntries = (int64_t{1} << 32) / kMaskLanes * kMaskPiece;  // lanes are numbered in 32 bits
// One bit of the seed or of the number changes every bit of a word with probability 1/2 from 11 steps on.
constexpr int kMaskWarmUp = 16;

struct MaskSeed {
  uint32_t a, b, c;
};

// Masks of n entries each, one after the other, with as many seeds. Their entries are `dropped` with probability
// drop / 2^16, else `kept`: both as the bits of the dtype.
struct MaskRun {
  void* out;  // [n_masks, n]
  int64_t n_masks, n;
  uint32_t drop;
  uint64_t dropped, kept;

  HOST_DEVICE int64_t pieces_of_mask() const { return (n + kMaskPiece - 1) / kMaskPiece; }
  HOST_DEVICE int64_t pieces() const { return n_masks * pieces_of_mask(); }
};

// A lane's next word. It begins with the seed in a, b and c, its number in counter, and kMaskWarmUp words that nobody
// uses.
HOST_DEVICE uint32_t next_mask_word(uint32_t& a, uint32_t& b, uint32_t& c, uint32_t& counter) {
  const uint32_t word = a + b + counter;
  counter += 1;
  a = b ^ (b >> 9);
  b = c + (c << 3);
  c = ((c << 21) | (c >> 11)) + word;
  return word;
}

// The 16 bits that decide a lane's first entry of a step are the upper half of its word, those of the second the lower
// half. Either is compared as the upper half of 32 bits: what is below decides nothing, since there the threshold is 0.
HOST_DEVICE bool drops_first(uint32_t word, uint32_t drop) { return word < drop << 16; }
HOST_DEVICE bool drops_second(uint32_t word, uint32_t drop) { return word << 16 < drop << 16; }

// The seed of the mask with this number, of what torch's CUDA generators are: a key and an offset. Philox4x32-10
// (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) as cuRAND numbers it: the offset, in words,
// is the lower half of the counter, the mask's number the upper one.
HOST_DEVICE MaskSeed philox_mask_seed(uint64_t key, uint64_t offset, uint64_t mask) {
  const uint64_t block = offset / 4;
  uint32_t x0 = static_cast<uint32_t>(block), x1 = static_cast<uint32_t>(block >> 32);
  uint32_t x2 = static_cast<uint32_t>(mask), x3 = static_cast<uint32_t>(mask >> 32);
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * x0, p1 = uint64_t{0xCD9E8D57} * x2;
    x0 = static_cast<uint32_t>(p1 >> 32) ^ x1 ^ k0;
    x1 = static_cast<uint32_t>(p1);
    x2 = static_cast<uint32_t>(p0 >> 32) ^ x3 ^ k1;
    x3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return {x0, x1, x2};
}

}  // namespace rnndrop
