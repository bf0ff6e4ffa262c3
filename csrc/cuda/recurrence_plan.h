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
// recurrence_tiling.h says how one block works and what room that takes, recurrence_estimate.h how long.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <iomanip>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "recurrence_estimate.h"

namespace rnndrop::cuda {

// What the user asked for, in the whole process; every call of an op obeys it.
inline std::atomic<Engine> wanted_engine{Engine::automatic};

// What the emulation has shown to be right and no GPU yet to be faster, in the whole process: none of it until one has.
struct Trials {
  // W_hh in registers: twice as many of them for half as many threads.
  bool registers = false;
  // How many steps ahead of the fetch what a step reads from memory is asked for, into the second cache: the slowest of
  // all blocks' loads is what a step waits for. 0: not at all, as on block, with lengths, with noise on the
  // state, and with W_hh in registers, since those kernels have no registers left for it.
  int64_t prefetch = 0;
  // In how many pieces a grid's blocks read their input, unless it is too large for as few.
  int64_t pieces = 1;
};
inline std::atomic<bool> wants_registers{false};
inline std::atomic<int64_t> wanted_prefetch{0}, wanted_pieces{1};
inline Trials wanted_trials() { return {wants_registers, wanted_prefetch, wanted_pieces}; }

// Whether a kernel counts so many steps.
inline bool is_counted(const RecurrenceShape& shape) { return shape.T <= std::numeric_limits<int>::max(); }

struct Plan {
  Engine engine = Engine::stepwise;
  Tiling tiling;
  int64_t shared_memory = 0;  // bytes
  StepEstimate step;
  double step_ns = 0;  // what the model expects of a step
  std::string why;
};

// On the device, for the grid engine: a flag a group, 128 bytes apart so that no two share a line, and behind them what
// is handed over, [2, groups * batch, K], in turn.
constexpr int64_t kFlagBytes = 128, kFlagStride = kFlagBytes / sizeof(unsigned);
inline int64_t scratch_bytes(const Plan& plan, Dtype dtype) {
  const Tiling& t = plan.tiling;
  return plan.engine == Engine::grid ? t.groups * (kFlagBytes + 2 * t.batch * t.K * size_of(dtype)) : 0;
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
// where the GPU has no room for any, and less where nobody knows. `wanted` restricts the choice to one engine. Stepwise
// where there is none.
inline Plan choose_plan(const RecurrenceShape& shape, const Gpu& gpu, Engine wanted,
                        std::function<int64_t(const Plan&)> at_once = {}) {
  if (!at_once) at_once = [&](const Plan& plan) { return groups_at_once(plan, gpu); };
  const double stepwise_ns = estimate_stepwise_ns(shape, gpu);
  const auto stepwise = [&](const std::string& why) {
    return Plan{Engine::stepwise, {}, 0, {}, stepwise_ns, "stepwise: " + why};
  };
  if (wanted == Engine::stepwise) return stepwise("asked for");
  if (shape.B == 0) return stepwise("the batch is empty");
  if (!is_counted(shape)) return stepwise("more steps than 32 bits count");
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
    tiling.prefetch = in_registers || engine == Engine::block ? 0 : trials.prefetch;
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

// One, where the recurrence is short or leaves the GEMM no multiprocessors; never more than there are steps.
inline int64_t overlapped_parts(const Plan& plan, int64_t T, const Gpu& gpu) {
  const int64_t busy = plan.tiling.groups * plan.tiling.blocks;
  return T >= 64 && busy * 4 <= gpu.n_sm * 3 ? std::min(wanted_parts.load(), T) : 1;
}

}  // namespace rnndrop::cuda
