// How a recurrence is laid over a GPU: which engine runs it, how units and batch are split over blocks, and why.
// Pure arithmetic, so that it is tested, and asked (`rnndrop info --shape`), without a GPU.
//
// The units are split over the blocks of a group, which keep their rows of W_hh on chip through all steps; the batch is
// split over groups, which never meet. The engines differ in how a group's blocks hand each other what the
// next step multiplies (h~ forward, dL/da backward):
//   block    the group is one block: nothing to hand over
//   cluster  up to 16 blocks, through distributed shared memory (sm_90)
//   grid     any number of blocks, through the second cache, with a flag a group; a cooperative launch
// and stepwise is none of them: two launches a step.
//
// Shared memory of a block, bytes, with Np rows of W_hh (4 gates of its units forward, its units backward) and K
// columns (all units forward, 4 gates of all units backward):
//   Np * row_bytes(K)  +  buffers * batch * row_bytes(piece)  +  splits * batch * (Np + 4) * sizeof(acc)  +
//   4 units * sizeof(acc)  +  16 for a cluster's mbarriers
// What is multiplied has all K columns there at once, or, where these do not fit, comes to a grid's blocks in pieces of
// K, one read while the one before is multiplied.
//
// Where each warp has little enough of W_hh (Tiling::in_registers) the rows are in shared memory before the first step
// only, from where each warp takes its part into registers, and all else is then in their place: the larger of the two.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <iomanip>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "host_device.h"
#include "params.h"

namespace rnndrop::cuda {

enum class Engine { automatic, stepwise, block, cluster, grid };
constexpr const char* kEngineNames[] = {"auto", "stepwise", "block", "cluster", "grid"};
inline const char* name_of(Engine engine) { return kEngineNames[static_cast<int>(engine)]; }

// What the user asked for, in the whole process; every call of an op obeys it.
inline std::atomic<Engine> wanted_engine{Engine::automatic};

inline Engine engine_named(const std::string& name) {
  for (const Engine engine : {Engine::automatic, Engine::stepwise, Engine::block, Engine::cluster, Engine::grid}) {
    if (name == name_of(engine)) return engine;
  }
  throw std::invalid_argument("engine: expected auto, stepwise, block, cluster or grid, got " + name);
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
// Each further piece of the input costs one more barrier.
constexpr int64_t kMaxPieces = 16;

// How one block works. Rows of operands lie an odd number of 16-byte vectors apart, so that neighbouring ones start in
// other banks.
struct Tiling {
  int64_t blocks = 0;  // of a group
  int64_t groups = 0;  // ceil(B / batch)
  int64_t units = 0;   // of a block; blocks * units >= H
  int64_t batch = 0;   // samples of a group
  int64_t rows = 0;    // of W_hh in a block: 4 * units forward, units backward
  int64_t rows_padded = 0;
  int64_t K = 0;        // columns: blocks * units forward, 4 * blocks * units backward
  int64_t ld = 0;       // elements from row to row of W_hh
  int64_t piece = 0;    // columns of the input that are in shared memory at a time: K, or fewer
  int64_t ld_in = 0;    // elements from sample to sample of the input
  int64_t at_once = 0;  // tiles of samples that a warp multiplies with what it has read of W_hh: 1, 2 or 4
  int64_t splits = 0;   // parts of a piece that are multiplied apart and then added
  int64_t steps = 0;    // k-steps of a split; one is as many columns as a warp's tile has
  int64_t threads = 0;
  bool in_registers = false;   // W_hh, of which a warp has one split of some tiles of rows: kStepsInRegisters at most
  bool acquire_polls = false;  // of a grid: as Trials
  int64_t prefetch = 0;        // likewise
  HOST_DEVICE int64_t padded_units() const { return blocks * units; }
  HOST_DEVICE int64_t ld_partial() const { return rows_padded + 4; }
  HOST_DEVICE int64_t pieces() const { return (K + piece - 1) / piece; }
  // Two in turn where a cluster's other blocks still read one input while the next is written, or where a piece arrives
  // while another is multiplied.
  HOST_DEVICE int64_t buffers(Engine engine) const { return engine == Engine::cluster || pieces() > 1 ? 2 : 1; }
};

// What a step takes, and what of.
struct StepEstimate {
  int64_t waves = 1;    // launches' blocks that run one after the other: each of them does all steps
  double product = 0;   // W_hh with h~ or da
  double cells = 0;     // the pointwise pass, and the barrier ahead of it
  double exchange = 0;  // until every block of the group has what all of them made
  double together = 0;  // of product and exchange, what happens at once
  double ns() const { return waves * (product + cells + exchange - together); }
};

struct Plan {
  Engine engine = Engine::stepwise;
  Tiling tiling;
  int64_t shared_memory = 0;  // bytes
  StepEstimate step;
  double step_ns = 0;  // what the model expects of a step
  std::string why;
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
                         (engine == Engine::cluster ? kMBarrierBytes : 0);
  return t.in_registers ? std::max(weights, others) : weights + others;
}

// On the device, for the grid engine: a flag a group, 128 bytes apart so that no two share a line, and behind them what
// is handed over, [2, groups * batch, K], in turn.
constexpr int64_t kFlagBytes = 128, kFlagStride = kFlagBytes / sizeof(unsigned);
inline int64_t scratch_bytes(const Plan& plan, Dtype dtype) {
  const Tiling& t = plan.tiling;
  return plan.engine == Engine::grid ? t.groups * (kFlagBytes + 2 * t.batch * t.K * size_of(dtype)) : 0;
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
  t.at_once = std::min<int64_t>(batch / tile.batch, most_tiles_at_once(math));
  // Enough threads for the cells, and for a warp to have about eight tiles a step at most.
  const int64_t tiles = ceil_div(t.rows, tile.rows) * ceil_div(batch, tile.batch), depth = ceil_div(t.K, tile.K);
  t.threads = 64;
  while (t.threads < max_threads(size, in_registers) &&
         (t.threads * kCellsOfThread < batch * t.units || t.threads / 32 * 8 < tiles * depth)) {
    t.threads *= 2;
  }
  // A long chain of dependent products is cut, but not into pieces too short to be worth adding up.
  const int64_t depth_of_piece = ceil_div(t.piece, tile.K);
  const int64_t of_warps = in_registers ? ceil_div(t.rows, tile.rows) : tiles / t.at_once;
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

// What the emulation has shown to be right and no GPU yet to be faster, in the whole process: none of it until one has.
struct Trials {
  // W_hh in registers: twice as many of them for half as many threads.
  bool registers = false;
  // A grid's blocks poll the flag with loads that acquire, each of which empties the first cache, and save the
  // acquiring load behind the last poll: one way to the second cache and back.
  bool acquire_polls = false;
  // How many steps ahead of the fetch what a step reads from memory is asked for, into the second cache: the slowest of
  // all blocks' loads is what a step waits for. 0: not at all, as with lengths or noise on the state.
  int64_t prefetch = 0;
  // In how many pieces a grid's blocks read their input, unless it is too large for as few.
  int64_t pieces = 1;
};
inline std::atomic<bool> wants_registers{false}, wants_acquire_polls{false};
inline std::atomic<int64_t> wanted_prefetch{0}, wanted_pieces{1};
inline Trials wanted_trials() { return {wants_registers, wants_acquire_polls, wanted_prefetch, wanted_pieces}; }

// ---------------------------------------------------------------- the model
// From data sheets, published latencies, a close reading of the machine code and, where it is said, measured on one
// H200. bench/gpu_check.sh measures every engine side by side, and bench/latency.cu what follows; what they say belongs
// here.

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
// Stepwise: two launches a step, made by a host that takes 10 to 14 us for them.
constexpr double kNsLaunches = 12000;
// An SM in a large GEMM, by Math.
constexpr double kNsFlop[] = {1 / 500., 1 / 3700., 1 / 7500.};

// The bytes that a step moves. The emulation counts them, and a test holds these against it.
struct StepTraffic {
  int64_t shared = 0;           // a block's product reads of its shared memory
  int64_t to_other_blocks = 0;  // a block of a cluster stores into the others' shared memory
  int64_t second_cache = 0;     // all blocks of a grid together read of the second cache
};

inline StepTraffic step_traffic(Engine engine, const RecurrenceShape& shape, const Tiling& t) {
  const WarpTile tile = warp_tile(math_of(shape), shape.dtype);
  const int64_t row_bytes = t.K * size_of(shape.dtype);
  const int64_t tiles_rows = ceil_div(t.rows, tile.rows), tiles_batch = ceil_div(t.batch, tile.batch);
  const int64_t rows_read = t.in_registers ? 0 : t.rows_padded * ceil_div(tiles_batch, t.at_once);
  StepTraffic traffic;
  traffic.shared = (rows_read + t.batch * tiles_rows) * row_bytes;
  if (engine == Engine::cluster) traffic.to_other_blocks = (t.blocks - 1) * t.batch * row_bytes / t.blocks;
  if (engine == Engine::grid) traffic.second_cache = t.groups * t.blocks * t.batch * row_bytes;
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
  if (engine == Engine::grid) {
    const double way = traffic.second_cache * kNsL2Byte;
    const int64_t pieces = t.pieces();
    step.exchange = kNsGrid + way + (pieces - 1) * kNsBarrier;
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

// ---------------------------------------------------------------- the choice

inline std::string describe(const Plan& plan) {
  const Tiling& t = plan.tiling;
  const StepEstimate& step = plan.step;
  std::ostringstream text;
  text << name_of(plan.engine) << ": " << t.groups << " group(s) of " << t.blocks << " block(s), " << t.units
       << " units and " << t.batch << " samples a block";
  if (t.pieces() > 1) text << ", " << t.pieces() << " pieces";
  text << ", " << t.threads << " threads, " << plan.shared_memory / 1024 << " KiB of shared memory";
  if (t.in_registers) text << ", W_hh in registers";
  if (t.prefetch > 0) text << ", " << t.prefetch << " steps prefetched";
  if (t.acquire_polls) text << ", polls acquire";
  text << std::fixed << std::setprecision(1) << "; about " << plan.step_ns / 1000 << " us a step by the model ("
       << std::setprecision(2) << "product " << step.product / 1000 << ", cells " << step.cells / 1000 << ", exchange "
       << step.exchange / 1000 << ", of which at once " << step.together / 1000;
  if (step.waves > 1) text << ", times " << step.waves << " waves";
  text << ")";
  return text.str();
}

// Multiprocessors of each GPC, within one of which a cluster lies. Where no driver can be asked: as an H100 of 132 was
// seen to have them (it runs 15 clusters of 8 at once, and 7 of 16), otherwise full ones of 16.
inline std::vector<int64_t> gpcs_of(const Gpu& gpu) {
  if (gpu.n_sm == 132) return {18, 18, 18, 16, 16, 16, 16, 14};
  std::vector<int64_t> gpcs(gpu.n_sm / 16, 16);
  if (gpu.n_sm % 16) gpcs.push_back(gpu.n_sm % 16);
  return gpcs;
}

// How many groups of a plan run at once, by what is known without a driver: a block to a multiprocessor.
inline int64_t groups_at_once(const Plan& plan, const Gpu& gpu) {
  const int64_t blocks = plan.tiling.blocks;
  if (plan.engine != Engine::cluster) return gpu.n_sm / blocks;
  int64_t clusters = 0;
  for (const int64_t n : gpcs_of(gpu)) clusters += n / blocks;
  return clusters;
}

// By the model the fastest of all tilings that fit and of which at least one group runs: `at_once` says how many do, 0
// where the GPU has no room for any. `wanted` restricts the choice to one engine. Stepwise where there is none.
inline Plan choose_plan(const RecurrenceShape& shape, const Gpu& gpu, Engine wanted,
                        std::function<int64_t(const Plan&)> at_once = {}) {
  if (!at_once) at_once = [&](const Plan& plan) { return groups_at_once(plan, gpu); };
  const double stepwise_ns = estimate_stepwise_ns(shape, gpu);
  const auto stepwise = [&](const std::string& why) {
    return Plan{Engine::stepwise, {}, 0, {}, stepwise_ns, "stepwise: " + why};
  };
  if (wanted == Engine::stepwise) return stepwise("asked for");
  if (shape.B == 0) return stepwise("the batch is empty");
  if (shape.T > std::numeric_limits<int>::max()) return stepwise("more steps than 32 bits count");
  Plan best = stepwise("W_hh does not fit into the shared memory of the blocks that can run at once");
  bool found = false;
  const WarpTile tile = warp_tile(math_of(shape), shape.dtype);
  const Trials trials = wanted_trials();
  const auto weigh = [&](Engine engine, int64_t blocks, int64_t batch, int64_t most_pieces, bool in_registers) {
    if (wanted != Engine::automatic && wanted != engine) return;
    const int64_t fewest_pieces = engine == Engine::grid && !in_registers ? trials.pieces : 1;
    Tiling tiling = make_tiling(shape, blocks, batch, fewest_pieces, in_registers);
    if (batch * tiling.units > max_threads(size_of(shape.dtype), in_registers) * kCellsOfThread) return;
    if (engine == Engine::grid && tiling.groups * blocks > gpu.n_sm) return;
    if (in_registers && !fits_in_registers(tiling, shape)) return;
    int64_t bytes = shared_memory_of(engine, tiling, shape.dtype);
    while (bytes > gpu.shared_memory && tiling.splits > 1 && !in_registers) {
      set_splits(tiling, tiling.splits - 1, tile);
      bytes = shared_memory_of(engine, tiling, shape.dtype);
    }
    if (in_registers) most_pieces = 1;
    for (int64_t n = fewest_pieces + 1; bytes > gpu.shared_memory && n <= most_pieces; ++n) {
      tiling = make_tiling(shape, blocks, batch, n);
      bytes = shared_memory_of(engine, tiling, shape.dtype);
    }
    if (bytes > gpu.shared_memory) return;
    tiling.prefetch = trials.prefetch;
    tiling.acquire_polls = engine == Engine::grid && trials.acquire_polls;
    const auto estimate = [&](int64_t groups) {
      return estimate_step(engine, shape, tiling, ceil_div(tiling.groups, std::max<int64_t>(groups, 1)));
    };
    // Blocks that share a multiprocessor have half of it each, so that more than one on each is no gain.
    const int64_t most = gpu.n_sm / blocks;
    if (found && estimate(most).ns() >= best.step_ns) return;
    Plan plan{engine, tiling, bytes, {}, 0, ""};
    const int64_t groups = std::min(most, at_once(plan));
    if (groups < 1) return;
    plan.step = estimate(groups);
    plan.step_ns = plan.step.ns();
    if (found && plan.step_ns >= best.step_ns) return;
    found = true;
    best = plan;
  };
  const auto consider = [&](Engine engine, int64_t blocks, int64_t batch, int64_t most_pieces = 1) {
    if (trials.registers) weigh(engine, blocks, batch, most_pieces, true);
    weigh(engine, blocks, batch, most_pieces, false);
  };
  const int64_t vector = 16 / size_of(shape.dtype), most_blocks = ceil_div(shape.H, vector);
  // The input in pieces only where nothing fast can have it whole.
  for (const int64_t most_pieces : {int64_t{1}, kMaxPieces}) {
    if (found && best.step_ns <= stepwise_ns) break;
    for (int64_t batch = tile.batch; batch <= 64; batch *= 2) {
      consider(Engine::block, 1, batch);
      for (int64_t blocks = 2; gpu.major >= 9 && blocks <= std::min<int64_t>(kMaxCluster, most_blocks); blocks *= 2) {
        consider(Engine::cluster, blocks, batch);
      }
      // As many as the GPU has room for, and half of that: fewer blocks to wait for.
      const int64_t room = std::min(gpu.n_sm / ceil_div(shape.B, batch), most_blocks);
      for (int64_t most = room; most >= 2 && most > room / 4; most /= 2) {
        const int64_t units = round_up(ceil_div(shape.H, most), vector);
        consider(Engine::grid, ceil_div(shape.H, units), batch, most_pieces);
      }
      if (batch >= shape.B) break;
    }
  }
  if (found && wanted == Engine::automatic && best.step_ns > stepwise_ns) {
    return stepwise("the model expects it to be faster than " + describe(best));
  }
  if (found) best.why = describe(best);
  return best;
}

// ---------------------------------------------------------------- the GEMM with x, ahead of the recurrence

// In how many parts of the sequence the input is projected on a stream of its own, while the parts before it run, in
// the whole process. One until a GPU has shown that more are faster: the GEMMs of later parts are queued ahead of the
// recurrence, which may have to wait for its multiprocessors, and each part is one more launch.
inline std::atomic<int64_t> wanted_parts{1};

// One, where the recurrence is short or leaves the GEMM no multiprocessors.
inline int64_t overlapped_parts(const Plan& plan, int64_t T, const Gpu& gpu) {
  const int64_t busy = plan.tiling.groups * plan.tiling.blocks;
  return T >= 64 && busy * 4 <= gpu.n_sm * 3 ? wanted_parts.load() : 1;
}

}  // namespace rnndrop::cuda
