// How one block of a GPU does its part of a recurrence, and what room it needs. Pure arithmetic; recurrence_plan.h says
// what the engines are and chooses.
//
// Shared memory of a block, bytes, with Np rows of W_hh (4 gates of its units forward, its units backward) and K
// columns (all units forward, 4 gates of all units backward):
//   Np * row_bytes(K)  +  buffers * batch * row_bytes(piece)  +  splits * batch * (Np + 4) * sizeof(acc)  +
//   4 units * sizeof(acc)  +  16 for the mbarriers of cluster and multicast
// What is multiplied has all K columns there at once, or, where these do not fit, comes to a grid's blocks in pieces of
// K, one read while the one before is multiplied.
//
// Where each warp has little enough of W_hh (Tiling::in_registers) the rows are in shared memory before the first step
// only, from where each warp takes its part into registers, and all else is then in their place: the larger of the two.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "host_device.h"
#include "params.h"

namespace rnndrop::cuda {

enum class Engine { automatic, stepwise, block, cluster, grid, multicast };
constexpr const char* kEngineNames[] = {"auto", "stepwise", "block", "cluster", "grid", "multicast"};
inline const char* name_of(Engine engine) { return kEngineNames[static_cast<int>(engine)]; }

inline Engine engine_named(const std::string& name) {
  for (const Engine engine :
       {Engine::automatic, Engine::stepwise, Engine::block, Engine::cluster, Engine::grid, Engine::multicast}) {
    if (name == name_of(engine)) return engine;
  }
  throw std::invalid_argument("engine: expected auto, stepwise, block, cluster, grid or multicast, got " + name);
}

// Whether all blocks are launched together, and hand over what the next step multiplies through the second cache.
HOST_DEVICE constexpr bool is_through_second_cache(Engine engine) {
  return engine == Engine::grid || engine == Engine::multicast;
}

// What multiplies: the plain units, or the tensor cores on tf32 or 16-bit operands.
enum class Math { plain, tf32, half };

struct Gpu {
  int major = 0;              // compute capability
  int64_t n_sm = 0;           // multiprocessors
  int64_t shared_memory = 0;  // bytes that one block may have
};

struct RecurrenceShape {
  Dtype dtype = Dtype::float64;
  bool tf32 = false;  // float32 may be rounded to tf32
  int64_t T = 0, B = 0, H = 0;
  bool backward = false;
};

// How many cells of the pointwise pass a thread has at most; it keeps them in registers from step to step.
constexpr int kCellsOfThread = 2;
// Few enough for each to have the registers it needs: a float64 takes two, and W_hh half of what a thread can have.
constexpr int max_threads(int64_t scalar_size, bool in_registers = false) {
  return scalar_size == 8 || in_registers ? 256 : 512;
}
// K-steps of W_hh that a warp has room for in registers, four of each thread for one; it goes through them four by
// four, 128 bytes of each row, which is as long as rows are rounded up to.
constexpr int kStepsInRegisters = 32, kStepsAtOnce = 4;
// Tiles of samples that a warp multiplies with what it has read of W_hh; the sums of all of them are in registers.
constexpr int most_tiles_at_once(Math math) { return math == Math::plain ? 1 : 4; }
constexpr int kMaxCluster = 16;
// Blocks that copy for each other (Tiling::share): 1, 2 or 4.
constexpr int64_t kMaxShare = 4;
// Of a group.
constexpr int64_t kMostSamples = 64;
// A kernel adds it to a step; what is prefetched earlier has left the second cache again before it is read.
constexpr int64_t kMaxPrefetch = 64;
// Each further piece of the input costs one more way to memory.
constexpr int64_t kMaxPieces = 32;

// How one block works. Rows of operands lie an odd number of 16-byte vectors apart, so that neighbouring ones start in
// other banks.
struct Tiling {
  int64_t blocks = 0;       // of a group
  int64_t groups = 0;       // ceil(B / batch)
  int64_t first_block = 0;  // of a launch, where not all groups run at once
  int64_t units = 0;        // of a block; blocks * units >= H
  int64_t batch = 0;        // samples of a group
  int64_t rows = 0;         // of W_hh in a block: 4 * units forward, units backward
  int64_t rows_padded = 0;
  int64_t K = 0;              // columns: blocks * units forward, 4 * blocks * units backward
  int64_t ld = 0;             // elements from row to row of W_hh
  int64_t piece = 0;          // columns of the input that are in shared memory at a time: K, or fewer
  int64_t ld_in = 0;          // elements from sample to sample of the input
  int64_t tiles_at_once = 0;  // tiles of samples that a warp multiplies with what it has read of W_hh: 1, 2 or 4
  int64_t splits = 0;         // parts of a piece that are multiplied apart and then added
  int64_t steps = 0;          // k-steps of a split; one is as many columns as a warp's tile has
  int64_t threads = 0;
  bool in_registers = false;  // W_hh, of which a warp has one split of some tiles of rows: kStepsInRegisters at most
  int64_t prefetch = 0;       // as Trials
  int64_t share = 1;          // of multicast: blocks of a cluster, each of which copies every share-th sample for all
  HOST_DEVICE int64_t padded_units() const { return blocks * units; }
  HOST_DEVICE int64_t ld_partial() const { return rows_padded + 4; }
  HOST_DEVICE int64_t pieces() const { return (K + piece - 1) / piece; }
  // Two in turn where a cluster's other blocks still read one input while the next is written, or where a piece arrives
  // while another is multiplied.
  HOST_DEVICE int64_t buffers(Engine engine) const { return engine == Engine::cluster || pieces() > 1 ? 2 : 1; }
};

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

inline int64_t size_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::float64: return 8;
    case Dtype::float32: return 4;
    case Dtype::bfloat16:
    case Dtype::float16: return 2;
  }
  throw std::logic_error("size_of: no such dtype");
}
inline int64_t acc_size_of(Dtype dtype) { return std::max<int64_t>(size_of(dtype), 4); }

inline Math math_of(const RecurrenceShape& shape) {
  switch (shape.dtype) {
    case Dtype::float64: return Math::plain;
    case Dtype::float32: return shape.tf32 ? Math::tf32 : Math::plain;
    case Dtype::bfloat16:
    case Dtype::float16: return Math::half;
  }
  throw std::logic_error("math_of: no such dtype");
}

// The tile of a product that one warp makes at a time: rows of W_hh, samples, columns.
struct WarpTile {
  int64_t rows, batch, K;
};
inline WarpTile warp_tile(Math math, Dtype dtype) {
  switch (math) {
    case Math::half: return {16, 8, 16};
    case Math::tf32: return {16, 8, 8};
    case Math::plain: return {32, 4, 16 / size_of(dtype)};
  }
  throw std::logic_error("warp_tile: no such math");
}

constexpr int64_t kMBarrierBytes = 2 * 8;
inline int64_t shared_memory_of(Engine engine, const Tiling& t, Dtype dtype) {
  const int64_t weights = t.rows_padded * t.ld * size_of(dtype);
  const int64_t others = t.buffers(engine) * t.batch * t.ld_in * size_of(dtype) +
                         (t.splits * t.batch * t.ld_partial() + 4 * t.units) * acc_size_of(dtype) +
                         (engine == Engine::cluster || engine == Engine::multicast ? kMBarrierBytes : 0);
  return t.in_registers ? std::max(weights, others) : weights + others;
}

// Into how many parts the columns of a piece are cut at most, so that no warp has none.
inline void set_splits(Tiling& t, int64_t splits, const WarpTile& tile) {
  const int64_t depth = ceil_div(t.piece, tile.K);
  t.steps = ceil_div(depth, splits);
  if (t.in_registers) t.steps = round_up(t.steps, kStepsAtOnce);
  t.splits = t.in_registers ? ceil_div(depth, t.steps) : splits;
}

// The tiling that splits H over `blocks` blocks, B into groups of `batch` and K into `pieces`, or fewer.
inline Tiling make_tiling(const RecurrenceShape& shape, int64_t blocks, int64_t batch, int64_t pieces = 1,
                          bool in_registers = false) {
  const int64_t size = size_of(shape.dtype), vector = 16 / size;
  const Math math = math_of(shape);
  const WarpTile tile = warp_tile(math, shape.dtype);
  Tiling t;
  t.blocks = blocks;
  t.in_registers = in_registers;
  t.batch = batch;
  t.groups = ceil_div(shape.B, batch);
  t.units = round_up(ceil_div(shape.H, blocks), vector);
  t.rows = shape.backward ? t.units : kGates * t.units;
  t.rows_padded = math == Math::plain ? t.rows : round_up(t.rows, tile.rows);
  t.K = (shape.backward ? kGates : 1) * t.padded_units();
  t.piece = pieces == 1 ? t.K : std::min(t.K, round_up(ceil_div(t.K, pieces), tile.K));
  const auto row_length = [&](int64_t columns) { return (round_up(columns * size, 128) + 16) / size; };
  t.ld = row_length(t.K);
  t.ld_in = row_length(t.piece);
  t.tiles_at_once = std::min<int64_t>(batch / tile.batch, most_tiles_at_once(math));
  // Enough threads for the cells, and for a warp to have about eight tiles a step at most.
  const int64_t tiles = ceil_div(t.rows, tile.rows) * ceil_div(batch, tile.batch), depth = ceil_div(t.K, tile.K);
  t.threads = 64;
  while (t.threads < max_threads(size, in_registers) &&
         (t.threads * kCellsOfThread < batch * t.units || t.threads / 32 * 8 < tiles * depth)) {
    t.threads *= 2;
  }
  // A long chain of dependent products is cut, but not into pieces too short to be worth adding up.
  const int64_t depth_of_piece = ceil_div(t.piece, tile.K);
  const int64_t of_warps = in_registers ? ceil_div(t.rows, tile.rows) : tiles / t.tiles_at_once;
  set_splits(t, std::clamp<int64_t>(t.threads / 32 / of_warps, 1, std::max<int64_t>(depth_of_piece / 2, 1)), tile);
  return t;
}

// Whether W_hh is kept in registers as `t` says: all k-steps of a split, of each tile of rows that a warp has; and so
// the whole input is there at once, too. The tensor cores only.
inline bool fits_in_registers(const Tiling& t, const RecurrenceShape& shape) {
  if (math_of(shape) == Math::plain || t.pieces() > 1) return false;
  const int64_t tiles_rows = ceil_div(t.rows, warp_tile(math_of(shape), shape.dtype).rows);
  return t.steps * ceil_div(tiles_rows, t.threads / 32 / t.splits) <= kStepsInRegisters;
}

}  // namespace rnndrop::cuda
