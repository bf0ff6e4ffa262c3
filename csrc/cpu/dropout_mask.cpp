// Dropout masks on the CPU, in one pass that writes the mask and nothing else: 0.5 ns an entry on a Zen 1 core, where
// drawing from mt19937 and comparing took 4.5. The arithmetic is mask_bits.h's, which every CPU has as vectors.
#include "dropout_mask.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/core/DistributionsHelper.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#include <mutex>

#include "cpu/threads.h"
#include "cpu/vector_isa.h"

namespace rnndrop {
namespace {

struct Piece {
  const int32_t* seed;     // [3]
  int64_t index;           // which piece of its mask
  uint32_t drop;           // of the 2^16 values of an entry's bits
  uint64_t dropped, kept;  // an entry, as the bits of its dtype
  void* out;
  int64_t n;  // entries: kMaskPiece, or fewer in the last piece
};

// The state of a piece's generators; no two of one seed ever start alike, their counters differ.
struct Lanes {
  alignas(64) uint32_t a[kMaskLanes], b[kMaskLanes], c[kMaskLanes], counter[kMaskLanes];

  INLINE Lanes(const int32_t* seed, uint32_t first_lane) {
    for (int64_t k = 0; k < kMaskLanes; ++k) {
      a[k] = static_cast<uint32_t>(seed[0]);
      b[k] = static_cast<uint32_t>(seed[1]);
      c[k] = static_cast<uint32_t>(seed[2]);
      counter[k] = first_lane + static_cast<uint32_t>(k);
    }
    uint32_t unused[kMaskLanes];
    for (int step = 0; step < kMaskWarmUp; ++step) next(unused);
  }

  INLINE void next(uint32_t* word) {
    for (int64_t k = 0; k < kMaskLanes; ++k) word[k] = next_mask_word(a[k], b[k], c[k], counter[k]);
  }
};

// kMaskStep entries of the mask.
template <class bits_t>
INLINE void fill_step(bits_t* out, Lanes& random, const Piece& piece) {
  const uint32_t drop = piece.drop;
  const bits_t dropped = static_cast<bits_t>(piece.dropped), kept = static_cast<bits_t>(piece.kept);
  alignas(64) uint32_t word[kMaskLanes];
  random.next(word);
  for (int64_t k = 0; k < kMaskLanes; ++k) out[k] = drops_first(word[k], drop) ? dropped : kept;
  for (int64_t k = 0; k < kMaskLanes; ++k) out[kMaskLanes + k] = drops_second(word[k], drop) ? dropped : kept;
}

template <class bits_t>
INLINE void fill(const Piece& piece) {
  Lanes random(piece.seed, static_cast<uint32_t>(piece.index * kMaskLanes));
  bits_t* out = static_cast<bits_t*>(piece.out);
  int64_t n = piece.n;
  for (; n >= kMaskStep; n -= kMaskStep, out += kMaskStep) fill_step(out, random, piece);
  if (n > 0) {
    bits_t step[kMaskStep];
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

// The masks of a run, from as many seeds.
void fill_run(const MaskRun& run, const int32_t* first_seed, int64_t entry_bytes) {
  static const Kernels& kernels = WIDEST(kernels_);
  const auto fill = entry_bytes == 2 ? kernels.of_16_bits : entry_bytes == 4 ? kernels.of_32_bits : kernels.of_64_bits;
  const int64_t pieces_of_mask = run.pieces_of_mask(), n_pieces = run.pieces();
  const Piece common{nullptr, 0, run.drop, run.dropped, run.kept, nullptr, 0};
  // Waking a thread takes a few microseconds, as long as a piece.
  constexpr int64_t kPiecesPerTask = 4;
  cpu::parallel_for(n_pieces, kPiecesPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      const int64_t of_mask = k / pieces_of_mask, index = k % pieces_of_mask, at = index * kMaskPiece;
      Piece piece = common;
      piece.seed = first_seed + 3 * of_mask;
      piece.index = index;
      piece.out = static_cast<char*>(run.out) + (of_mask * run.n + at) * entry_bytes;
      piece.n = std::min(kMaskPiece, run.n - at);
      fill(piece);
    }
  });
}

at::Tensor expand_on_cpu(const at::Tensor& seed, at::IntArrayRef shape, int64_t drop, double dropped, double kept,
                         at::ScalarType dtype) {
  const MaskOfSeeds of(seed, shape, drop, dropped, kept, dtype);
  fill_run(of.run, of.seeds.const_data_ptr<int32_t>(), of.mask.element_size());
  return of.mask;
}

std::vector<at::Tensor> draw_on_cpu(at::IntArrayRef dims, at::IntArrayRef sizes, at::IntArrayRef drop,
                                    at::ArrayRef<double> dropped, at::ArrayRef<double> kept, at::ScalarType dtype,
                                    std::optional<c10::Device> device, std::optional<at::Generator> generator) {
  check_drawing_device(device, c10::kCPU);
  auto* const source =
      at::get_generator_or_default<at::CPUGeneratorImpl>(generator, at::detail::getDefaultCPUGenerator());
  const at::uniform_int_from_to_distribution<int32_t> word(uint64_t{1} << 32, -(int64_t{1} << 31));
  DrawnMasks drawn(dims, sizes, drop, dropped, kept, at::TensorOptions(dtype));
  for (const MaskRun& run : drawn.runs) {
    int32_t seed[3];
    {
      const std::lock_guard<std::mutex> lock(source->mutex_);
      for (int32_t& of_seed : seed) of_seed = word(source);
    }
    fill_run(run, seed, c10::elementSize(dtype));
  }
  return std::move(drawn.masks);
}

// Without a tensor among the arguments no dispatch key tells the device.
std::vector<at::Tensor> draw(at::IntArrayRef dims, at::IntArrayRef sizes, at::IntArrayRef drop,
                             at::ArrayRef<double> dropped, at::ArrayRef<double> kept, at::ScalarType dtype,
                             std::optional<c10::Device> device, std::optional<at::Generator> generator) {
  if (!device || device->is_cpu()) {
    return draw_on_cpu(dims, sizes, drop, dropped, kept, dtype, device, std::move(generator));
  }
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("rnndrop::draw_dropout_masks", "").typed<DrawDropoutMasks>();
  const c10::DispatchKey key = c10::computeDispatchKey(dtype, at::kStrided, *device);
  TORCH_CHECK(op.hasKernelForDispatchKey(key), "device: no kernel of this build draws masks on ", *device);
  return op.redispatch(c10::DispatchKeySet(key), dims, sizes, drop, dropped, kept, dtype, device, std::move(generator));
}

}  // namespace

TORCH_LIBRARY_IMPL(rnndrop, CPU, m) {
  m.impl("expand_dropout_mask", expand_on_cpu);
  m.impl("draw_dropout_masks", draw_on_cpu);
}

TORCH_LIBRARY_IMPL(rnndrop, CompositeExplicitAutograd, m) { m.impl("draw_dropout_masks", draw); }

}  // namespace rnndrop
