// Dropout masks from a seed of 96 bits, in one pass that writes the mask and nothing else.
//
// sfc32 (Chris Doty-Humphrey's PractRand) makes 32 random bits, two entries, of eleven additions, shifts and xors,
// which every CPU has as vectors: 0.5 ns an entry on a Zen 1 core, where drawing from mt19937 and comparing took 4.5. A
// mask is cut into pieces, and every lane of a piece is a generator of its own, which starts from the seed and its own
// number. So pieces need not know of each other, and what an entry becomes depends on the seed and its place only.
#include "cpu/dropout_mask.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/core/DistributionsHelper.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <optional>
#include <vector>

#include "cpu/threads.h"
#include "cpu/vector_isa.h"

namespace rnndrop {
namespace {

constexpr int64_t kLanes = 32;
constexpr int64_t kStepEntries = 2 * kLanes;  // the upper halves of all lanes' words, then the lower ones
constexpr int64_t kPieceEntries = 128 * kStepEntries;
constexpr int64_t kMaxEntries = (int64_t{1} << 32) / kLanes * kPieceEntries;  // lanes are numbered in 32 bits
// One bit of the seed or of the number changes every bit of a word with probability 1/2 from 11 steps on.
constexpr int kWarmUpSteps = 16;

struct Piece {
  const int32_t* seed;     // [3]
  int64_t index;           // which piece of its mask
  uint32_t drop;           // of the 2^16 values of an entry's bits
  uint64_t dropped, kept;  // an entry, as the bits of its dtype
  void* out;
  int64_t n;  // entries: kPieceEntries, or fewer in the last piece
};

// The state of kLanes generators; no two of one seed ever start alike, their counters differ.
struct Sfc32 {
  alignas(64) uint32_t a[kLanes], b[kLanes], c[kLanes], counter[kLanes];

  INLINE Sfc32(const int32_t* seed, uint32_t first_lane) {
    for (int64_t k = 0; k < kLanes; ++k) {
      a[k] = static_cast<uint32_t>(seed[0]);
      b[k] = static_cast<uint32_t>(seed[1]);
      c[k] = static_cast<uint32_t>(seed[2]);
      counter[k] = first_lane + static_cast<uint32_t>(k);
    }
    uint32_t unused[kLanes];
    for (int step = 0; step < kWarmUpSteps; ++step) next(unused);
  }

  INLINE void next(uint32_t* word) {
    for (int64_t k = 0; k < kLanes; ++k) {
      word[k] = a[k] + b[k] + counter[k];
      counter[k] += 1;
      a[k] = b[k] ^ (b[k] >> 9);
      b[k] = c[k] + (c[k] << 3);
      c[k] = ((c[k] << 21) | (c[k] >> 11)) + word[k];
    }
  }
};

// kStepEntries of the mask. An entry's 16 bits are compared as the upper half of a word; the lower half decides
// nothing, since the threshold's is 0.
template <class bits_t>
INLINE void fill_step(bits_t* out, Sfc32& random, const Piece& piece) {
  const uint32_t threshold = piece.drop << 16;
  const bits_t dropped = static_cast<bits_t>(piece.dropped), kept = static_cast<bits_t>(piece.kept);
  alignas(64) uint32_t word[kLanes];
  random.next(word);
  for (int64_t k = 0; k < kLanes; ++k) out[k] = word[k] < threshold ? dropped : kept;
  for (int64_t k = 0; k < kLanes; ++k) out[kLanes + k] = (word[k] << 16) < threshold ? dropped : kept;
}

template <class bits_t>
INLINE void fill(const Piece& piece) {
  Sfc32 random(piece.seed, static_cast<uint32_t>(piece.index * kLanes));
  bits_t* out = static_cast<bits_t*>(piece.out);
  int64_t n = piece.n;
  for (; n >= kStepEntries; n -= kStepEntries, out += kStepEntries) fill_step(out, random, piece);
  if (n > 0) {
    bits_t step[kStepEntries];
    fill_step(step, random, piece);
    std::memcpy(out, step, n * sizeof(bits_t));
  }
}

struct Kernels {
  void (*of_16_bits)(const Piece&);
  void (*of_32_bits)(const Piece&);
  void (*of_64_bits)(const Piece&);
};

#define DEFINE_KERNELS(NAME, ATTRIBUTE)            \
  template <class bits_t>                          \
  ATTRIBUTE void fill_##NAME(const Piece& piece) { \
    fill<bits_t>(piece);                           \
  }                                                \
  constexpr Kernels kernels_##NAME{fill_##NAME<uint16_t>, fill_##NAME<uint32_t>, fill_##NAME<uint64_t>};

DEFINE_FOR_EVERY_ISA(DEFINE_KERNELS)

template <class bits_t, class scalar_t>
uint64_t bits_of(double value) {
  const scalar_t rounded = static_cast<scalar_t>(value);
  bits_t bits;
  static_assert(sizeof(bits) == sizeof(rounded));
  std::memcpy(&bits, &rounded, sizeof(bits));
  return bits;
}

struct Format {
  void (*fill)(const Piece&);
  uint64_t (*bits_of)(double value);
};

Format format_of(at::ScalarType dtype) {
  static const Kernels& kernels = WIDEST(kernels_);
  switch (dtype) {
    case at::kDouble: return {kernels.of_64_bits, bits_of<uint64_t, double>};
    case at::kFloat: return {kernels.of_32_bits, bits_of<uint32_t, float>};
    case at::kBFloat16: return {kernels.of_16_bits, bits_of<uint16_t, c10::BFloat16>};
    case at::kHalf: return {kernels.of_16_bits, bits_of<uint16_t, c10::Half>};
    default: TORCH_CHECK_VALUE(false, "dtype: expected float64, float32, bfloat16 or float16, got ", dtype);
  }
}

// What each entry is.
struct Entries {
  uint32_t drop;
  at::ScalarType dtype;
  Format format;
  uint64_t dropped, kept;

  Entries(int64_t drop, double dropped, double kept, at::ScalarType dtype)
      : drop(static_cast<uint32_t>(drop)),
        dtype(dtype),
        format(format_of(dtype)),
        dropped(format.bits_of(dropped)),
        kept(format.bits_of(kept)) {
    TORCH_CHECK_VALUE(0 <= drop && drop < 1 << 16, "drop: expected one of [0, 2^16), got ", drop);
  }
};

void check_seed(const at::Tensor& seed) {
  TORCH_CHECK_VALUE(seed.scalar_type() == at::kInt, "seed: expected dtype int32, got ", seed.scalar_type());
  TORCH_CHECK(seed.dim() > 0 && seed.size(-1) == 3, "seed: expected shape [..., 3], got ", seed.sizes());
}

// n_masks masks of n entries each, one after the other, from as many seeds.
void fill_masks(char* first_entry, const int32_t* first_seed, int64_t n_masks, int64_t n, const Entries& entries) {
  TORCH_CHECK(n <= kMaxEntries, "shape: expected at most 2^40 entries, got ", n);
  const int64_t pieces_per_mask = (n + kPieceEntries - 1) / kPieceEntries, n_pieces = n_masks * pieces_per_mask;
  const int64_t entry_bytes = c10::elementSize(entries.dtype);
  const Piece common{nullptr, 0, entries.drop, entries.dropped, entries.kept};
  // Waking a thread takes a few microseconds, as long as a piece.
  constexpr int64_t kPiecesPerTask = 4;
  if (n_pieces > kPiecesPerTask) cpu::check_not_forked();
  cpu::parallel_for(n_pieces, kPiecesPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      const int64_t of_mask = k / pieces_per_mask, index = k % pieces_per_mask, at = index * kPieceEntries;
      Piece piece = common;
      piece.seed = first_seed + 3 * of_mask;
      piece.index = index;
      piece.out = first_entry + (of_mask * n + at) * entry_bytes;
      piece.n = std::min(kPieceEntries, n - at);
      entries.format.fill(piece);
    }
  });
}

at::Tensor expand_dropout_mask(const at::Tensor& seed, at::IntArrayRef shape, int64_t drop, double dropped, double kept,
                               at::ScalarType dtype) {
  check_seed(seed);
  const Entries entries(drop, dropped, kept, dtype);
  std::vector<int64_t> sizes = seed.sizes().vec();
  sizes.pop_back();
  sizes.insert(sizes.end(), shape.begin(), shape.end());
  const at::Tensor mask = at::empty(sizes, seed.options().dtype(dtype));
  if (mask.numel() == 0) return mask;

  const at::Tensor seeds = seed.contiguous();
  const int64_t n_masks = seeds.numel() / 3;
  fill_masks(static_cast<char*>(mask.mutable_data_ptr()), seeds.const_data_ptr<int32_t>(), n_masks,
             mask.numel() / n_masks, entries);
  return mask;
}

std::vector<at::Tensor> draw_dropout_masks(at::IntArrayRef dims, at::IntArrayRef sizes, at::IntArrayRef drop,
                                           at::ArrayRef<double> dropped, at::ArrayRef<double> kept,
                                           at::ScalarType dtype, std::optional<at::Generator> generator) {
  const size_t n = dims.size();
  TORCH_CHECK(drop.size() == n && dropped.size() == n && kept.size() == n,
              "expected a drop, a dropped and a kept for each of ", n, " masks");
  auto* const source =
      at::get_generator_or_default<at::CPUGeneratorImpl>(generator, at::detail::getDefaultCPUGenerator());
  const at::uniform_int_from_to_distribution<int32_t> word(uint64_t{1} << 32, -(int64_t{1} << 31));
  std::vector<at::Tensor> masks;
  masks.reserve(n);
  for (size_t k = 0, first = 0; k < n; first += dims[k++]) {
    TORCH_CHECK(0 <= dims[k] && first + dims[k] <= sizes.size(), "sizes: expected dims[k] of them for each mask");
    const Entries entries(drop[k], dropped[k], kept[k], dtype);
    masks.push_back(at::empty(sizes.slice(first, dims[k]), dtype));
    int32_t seed[3];
    {
      const std::lock_guard<std::mutex> lock(source->mutex_);
      for (int32_t& of_seed : seed) of_seed = word(source);
    }
    fill_masks(static_cast<char*>(masks[k].mutable_data_ptr()), seed, 1, masks[k].numel(), entries);
  }
  return masks;
}

}  // namespace

TORCH_LIBRARY_IMPL(rnndrop, CPU, m) { m.impl("expand_dropout_mask", expand_dropout_mask); }

// Without a tensor among its arguments there is no dispatch key to tell its device.
TORCH_LIBRARY_IMPL(rnndrop, CompositeExplicitAutograd, m) { m.impl("draw_dropout_masks", draw_dropout_masks); }

}  // namespace rnndrop
