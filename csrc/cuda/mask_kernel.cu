// CUDA kernel that draws dropout masks: every one of a call, whatever their sizes, in one launch.
//
// A warp makes a piece of a mask, a thread is one of its lanes (mask_bits.h): it starts its generator, then stores two
// entries a step, 32 neighbours a warp. Nothing is shared and nothing read but the arguments, and seeds or a
// generator's state where they lie in memory.
//
// Cost: the bytes of the masks, written once. A piece of 8192 entries is a chain of 144 steps, some ten cycles each:
// about 1 us, during which the 1,024 pieces of the largest m_g here (T=512, B=64, H=256) write 33 MB, 7 us at 4.8 TB/s.
// Masks of a layer without m_g are a few hundred entries, so that the launch is all there is to pay.
#include <algorithm>

#include "mask_kernel.h"
#include "portable.cuh"

namespace rnndrop::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kMaskLanes;

// The arguments of a launch; all of them have room in the 4 KB that a kernel's may take.
struct MaskBatch {
  MaskRun runs[kMaskRunsOfLaunch];
  int64_t first_piece[kMaskRunsOfLaunch];  // pieces of the runs before
  int64_t first_mask[kMaskRunsOfLaunch];   // masks of the runs before, of earlier launches too
  int64_t n_runs, n_pieces;
  MaskSeeds seeds;
};
static_assert(sizeof(MaskBatch) <= 4096);

__device__ __forceinline__ MaskSeed seed_of(const MaskSeeds& seeds, int64_t mask) {
  if (seeds.given) {
    const int32_t* seed = seeds.given + 3 * mask;
    return {static_cast<uint32_t>(seed[0]), static_cast<uint32_t>(seed[1]), static_cast<uint32_t>(seed[2])};
  }
  uint64_t key = seeds.key, offset = seeds.offset;
  if (seeds.key_in_memory) {
    key = static_cast<uint64_t>(*seeds.key_in_memory);
    offset += static_cast<uint64_t>(*seeds.offset_in_memory);
  }
  return philox_mask_seed(key, offset, static_cast<uint64_t>(mask));
}

template <class bits_t>
__global__ void __launch_bounds__(kThreads) masks_kernel(const __grid_constant__ MaskBatch batch) {
  const int64_t piece = int64_t(blockIdx.x) * kWarps + threadIdx.x / kMaskLanes, lane = threadIdx.x % kMaskLanes;
  if (piece >= batch.n_pieces) return;
  int k = 0;
  while (k + 1 < batch.n_runs && piece >= batch.first_piece[k + 1]) ++k;
  const MaskRun& run = batch.runs[k];
  const int64_t of_run = piece - batch.first_piece[k], pieces_of_mask = run.pieces_of_mask();
  const int64_t mask = of_run / pieces_of_mask, index = of_run % pieces_of_mask;

  auto [a, b, c] = seed_of(batch.seeds, batch.first_mask[k] + mask);
  uint32_t counter = static_cast<uint32_t>(index * kMaskLanes + lane);
#pragma unroll 1
  for (int step = 0; step < kMaskWarmUp; ++step) next_mask_word(a, b, c, counter);

  const int64_t begin = index * kMaskPiece, left = run.n - begin;
  const int n = static_cast<int>(left < kMaskPiece ? left : kMaskPiece);
  bits_t* const out = static_cast<bits_t*>(run.out) + mask * run.n + begin;
  const bits_t dropped = static_cast<bits_t>(run.dropped), kept = static_cast<bits_t>(run.kept);
  const uint32_t drop = run.drop;
#pragma unroll 4
  for (int at = static_cast<int>(lane); at < n; at += kMaskStep) {
    const uint32_t word = next_mask_word(a, b, c, counter);
    out[at] = drops_first(word, drop) ? dropped : kept;
    if (at + kMaskLanes < n) out[at + kMaskLanes] = drops_second(word, drop) ? dropped : kept;
  }
}

cudaError_t launch(const MaskBatch& batch, int64_t entry_bytes, cudaStream_t stream) {
  LaunchCfg config;
  config.grid = dim3(static_cast<unsigned>((batch.n_pieces + kWarps - 1) / kWarps));
  config.block = dim3(kThreads);
  config.stream = stream;
  switch (entry_bytes) {
    case 2: return LAUNCH(config, masks_kernel<uint16_t>, batch);
    case 4: return LAUNCH(config, masks_kernel<uint32_t>, batch);
    case 8: return LAUNCH(config, masks_kernel<uint64_t>, batch);
  }
  return cudaErrorInvalidValue;  // no such entries
}

}  // namespace

cudaError_t fill_masks(const MaskRun* runs, int64_t n_runs, int64_t entry_bytes, const MaskSeeds& seeds,
                       cudaStream_t stream) {
  int64_t masks_before = 0;
  for (int64_t first = 0; first < n_runs; first += kMaskRunsOfLaunch) {
    MaskBatch batch;
    batch.n_runs = std::min(kMaskRunsOfLaunch, n_runs - first);
    batch.n_pieces = 0;
    batch.seeds = seeds;
    for (int64_t k = 0; k < batch.n_runs; ++k) {
      const MaskRun& run = batch.runs[k] = runs[first + k];
      batch.first_piece[k] = batch.n_pieces;
      batch.first_mask[k] = masks_before;
      batch.n_pieces += run.pieces();
      masks_before += run.n_masks;
    }
    if (batch.n_pieces == 0) continue;
    const cudaError_t error = launch(batch, entry_bytes, stream);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace rnndrop::cuda
