// What a step of a recurrence takes, by a model: the bytes that it moves, its products and what it waits for.
// Pure arithmetic; recurrence_plan.h chooses by it.
//
// From data sheets, published latencies, a close reading of the machine code and, where it is said, measured on one
// H200. bench/gpu_check.sh measures every engine side by side, and bench/latency.cu what follows; what they say belongs
// here.
#pragma once

#include <algorithm>
#include <cstdint>

#include "recurrence_tiling.h"

namespace rnndrop::cuda {

// What a step takes, and what of.
struct StepEstimate {
  int64_t waves = 1;    // launches' blocks that run one after the other: each of them does all steps
  double product = 0;   // W_hh with h~ or da
  double cells = 0;     // the pointwise pass, and the barrier ahead of it
  double exchange = 0;  // until every block of the group has what all of them made
  double together = 0;  // of product and exchange, what happens at once
  double ns() const { return waves * (product + cells + exchange - together); }
};

// An SM reads 128 bytes of shared memory a cycle, at 1.75 GHz.
constexpr double kNsSharedByte = 1 / 220.;
// Other blocks' shared memory is about nine times slower than the block's own (arXiv 2402.13499; 26 bytes a ns from 15
// blocks on an H200, bench/results/latency.csv).
constexpr double kNsDistributedByte = 1 / 25.;
// Second cache, all SMs together.
constexpr double kNsL2Byte = 1 / 5000.;
// A warp's tile by Math: plain, tf32, half. On tensor cores the latency of a dependent one; plain from the machine
// code: 5 loads of 16 bytes and 16 multiply-adds, issued for 4 warps in turn, some 100 cycles.
constexpr double kNsTile[] = {60., 14., 20.};
// W_hh in registers: two sums at least go side by side.
constexpr double kTileInRegisters = 0.5;
// A block's barrier.
constexpr double kNsBarrier = 25;
// The pointwise pass of two cells, what it waits for and what it stores: what is left of a step on an H200 when the
// product and the exchange are taken off (H = 128, 256, 512 and 768, docs/speed.md).
constexpr double kNsCells = 1500;
// What is handed over in a cluster, but for its bytes: 4 KiB to one other block and a barrier took 444 on an H200, 164
// of it the bytes (bench/results/latency.csv).
constexpr double kNsCluster = 300;
// Flag up and down through the second cache: 542 for two blocks, 920 for 132 (there, too).
constexpr double kNsGrid = 800;
// Each further piece of the input, which is asked for when the one before is there: a way to the second cache and back.
// A guess: the one step in pieces that an H200 has run, the backward of H = 1024, wants 650 for each of three (7.95 us
// in all, docs/internals.md), of which some may be the cache's rate.
constexpr double kNsPiece = 400;
// Stepwise: two launches a step, which the host makes. Beside an H200 such steps took 17 to 25 us forward and 20 to 31
// backward (bench/results/cuda.csv).
constexpr double kNsLaunches = 20000;
// An SM in a large GEMM, by Math.
constexpr double kNsFlop[] = {1 / 500., 1 / 3700., 1 / 7500.};

// The bytes that a step moves. The emulation counts them, and a test holds these against it.
struct StepTraffic {
  int64_t shared = 0;           // a block's product reads of its shared memory
  int64_t to_other_blocks = 0;  // a block of a cluster stores into the others' shared memory
  int64_t second_cache = 0;     // all blocks together read of the second cache
};

inline StepTraffic step_traffic(Engine engine, const RecurrenceShape& shape, const Tiling& t) {
  const WarpTile tile = warp_tile(math_of(shape), shape.dtype);
  const int64_t row_bytes = t.K * size_of(shape.dtype);
  const int64_t tiles_rows = ceil_div(t.rows, tile.rows), tiles_batch = ceil_div(t.batch, tile.batch);
  const int64_t rows_read = t.in_registers ? 0 : t.rows_padded * ceil_div(tiles_batch, t.tiles_at_once);
  StepTraffic traffic;
  traffic.shared = (rows_read + t.batch * tiles_rows) * row_bytes;
  if (engine == Engine::cluster) traffic.to_other_blocks = (t.blocks - 1) * t.batch * row_bytes / t.blocks;
  if (is_through_second_cache(engine)) traffic.second_cache = t.groups * t.blocks * t.batch * row_bytes / t.share;
  return traffic;
}

inline StepEstimate estimate_step(Engine engine, const RecurrenceShape& shape, const Tiling& t, int64_t waves) {
  const WarpTile tile = warp_tile(math_of(shape), shape.dtype);
  const StepTraffic traffic = step_traffic(engine, shape, t);
  const int64_t warps = t.threads / 32;
  const int64_t tiles_rows = ceil_div(t.rows, tile.rows), tiles_batch = ceil_div(t.batch, tile.batch);
  const int64_t tiles = tiles_rows * tiles_batch * ceil_div(t.K, tile.K);
  StepEstimate step;
  step.waves = waves;
  const double tile_ns = kNsTile[static_cast<int>(math_of(shape))] * (t.in_registers ? kTileInRegisters : 1);
  step.product = std::max(ceil_div(tiles, warps) * tile_ns, traffic.shared * kNsSharedByte);
  step.cells = kNsBarrier + kNsCells;
  step.exchange = kNsBarrier;
  if (engine == Engine::cluster) {
    step.exchange = kNsCluster + traffic.to_other_blocks * kNsDistributedByte;
  }
  if (is_through_second_cache(engine)) {
    const double way = traffic.second_cache * kNsL2Byte / waves;
    const int64_t pieces = t.pieces();
    step.exchange = kNsGrid + way + (pieces - 1) * kNsPiece;
    step.together = std::min(way, step.product) * (pieces - 1) / pieces;
  }
  return step;
}

// Its GEMM reads all of W_hh, through the second cache, and writes and reads what a pointwise kernel then adds to.
inline double estimate_stepwise_ns(const RecurrenceShape& shape, const Gpu& gpu) {
  const double weights = kGates * shape.H * shape.H, gates = kGates * shape.B * shape.H;
  const double bytes = (weights + 2 * gates) * size_of(shape.dtype), flops = 2 * shape.B * weights;
  return kNsLaunches + std::max(bytes * kNsL2Byte, flops * kNsFlop[static_cast<int>(math_of(shape))] / gpu.n_sm);
}

}  // namespace rnndrop::cuda
