// How a recurrence is laid over a GPU: which engine runs it, how units and batch are split over blocks, and why.
// Pure arithmetic, so that it is tested, and asked (`rnndrop info --shape`), without a GPU.
//
// The units are split over the blocks of a group, which keep their rows of W_hh on chip through all steps; the batch is
// split over groups, which never meet. The engines differ in how a group's blocks hand each other what the
// next step multiplies (h~ forward, dL/da backward):
//   block    the group is one block: nothing to hand over
//   cluster  up to 16 blocks, through distributed shared memory (sm_90)
//   grid     any number of blocks, through the second cache, with a flag a group; cooperative launches, one for all
//            groups or several, each for those that run at once
//   multicast  as grid, but in bulk copies, each for one block or for two or four at once (sm_90, W_hh in registers)
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
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <tuple>
#include <vector>

#include "recurrence_estimate.h"

namespace rnndrop::cuda {

// What the user asked for, in the whole process; every call of an op obeys it.
inline std::atomic<Engine> wanted_engine{Engine::automatic};

// What a plan may have. What is off has been shown by the emulation to be right, and by no GPU yet to be faster; where
// torch.backends.cudnn.benchmark is set, a GPU says it for itself (gpu_plans.h).
struct Trials {
  // W_hh in registers where the model expects it to be faster: twice as many of them for half as many threads.
  bool registers = true;
  // How many steps ahead of the fetch what a step reads from memory is asked for, into the second cache: the slowest of
  // all blocks' loads is what a step waits for. 0: not at all, as on block, with lengths, with noise on the
  // state, and with W_hh in registers, since those kernels have no registers left for it.
  uint8_t prefetch = 0;
  // In how many pieces a grid's blocks read their input, unless it is too large for as few.
  uint8_t pieces = 1;
  // How many blocks may copy for each other in the engine of this name. 0: it is neither chosen nor timed unless it is
  // asked for, since no GPU has run it yet.
  uint8_t multicast = 0;
};
// What the user asked for, in the whole process.
inline std::atomic<Trials> wanted_trials{Trials()};

// Whether a kernel counts so many steps.
inline bool is_counted(const RecurrenceShape& shape) { return shape.T <= std::numeric_limits<int>::max(); }

struct Plan {
  Engine engine = Engine::stepwise;
  Tiling tiling;
  int64_t shared_memory = 0;  // bytes
  StepEstimate step;
  double step_ns = 0;          // what the model expects of a step
  double timed_ns = 0;         // what the GPU took for one, where it was timed
  int64_t groups_at_once = 0;  // as a GPU's driver says; 0: all of them
  std::string why;
};

// The other engines' groups are launched together, and run as they find room.
inline int64_t groups_a_launch(const Plan& plan) {
  const bool in_parts = is_through_second_cache(plan.engine) && plan.groups_at_once > 0;
  return in_parts ? std::min(plan.groups_at_once, plan.tiling.groups) : plan.tiling.groups;
}

// On the device, for grid and multicast: a flag a group, 128 bytes apart so that no two share a line, and behind them
// what is handed over, [2, groups * batch, K], in turn.
constexpr int64_t kFlagBytes = 128, kFlagStride = kFlagBytes / sizeof(unsigned);
inline int64_t scratch_bytes(const Plan& plan, Dtype dtype) {
  const Tiling& t = plan.tiling;
  return is_through_second_cache(plan.engine) ? t.groups * (kFlagBytes + 2 * t.batch * t.K * size_of(dtype)) : 0;
}

// ---------------------------------------------------------------- the choice

inline std::string describe(const Plan& plan) {
  const Tiling& t = plan.tiling;
  const StepEstimate& step = plan.step;
  std::ostringstream text;
  text << name_of(plan.engine) << ": " << t.groups << " group(s) of " << t.blocks << " block(s), " << t.units
       << " units and " << t.batch << " samples a block";
  if (t.share > 1) text << ", " << t.share << " blocks copy for each other";
  if (t.pieces() > 1) text << ", " << t.pieces() << " pieces";
  text << ", " << t.threads << " threads, " << plan.shared_memory / 1024 << " KiB of shared memory";
  if (t.in_registers) text << ", W_hh in registers";
  if (t.prefetch > 0) text << ", " << t.prefetch << " steps prefetched";
  text << std::fixed << std::setprecision(1) << "; about " << plan.step_ns / 1000 << " us a step by the model ("
       << std::setprecision(2) << "product " << step.product / 1000 << ", cells " << step.cells / 1000 << ", exchange "
       << step.exchange / 1000 << ", of which overlapped " << step.together / 1000;
  if (step.waves > 1) text << ", times " << step.waves << " waves";
  text << ")";
  if (plan.timed_ns > 0) text << ", " << plan.timed_ns / 1000 << " as timed";
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
  const int64_t of_cluster = plan.engine == Engine::cluster ? blocks : plan.tiling.share;
  int64_t clusters = 0;
  for (const int64_t n : gpcs_of(gpu)) clusters += n / of_cluster;
  return clusters * of_cluster / blocks;
}

// How many groups of a plan run at once: 0 where the GPU has no room for any, less where nobody knows.
using GroupsAtOnce = std::function<int64_t(const Plan&)>;

inline void estimate(Plan& plan, const RecurrenceShape& shape, int64_t groups) {
  plan.step = estimate_step(plan.engine, shape, plan.tiling, ceil_div(plan.tiling.groups, groups));
  plan.step_ns = plan.step.ns();
}

// Of a recurrence, each with some of its groups.
constexpr int64_t kMostLaunches = 8;

// How an engine splits units and batch, and what else there is to choose.
struct Split {
  Engine engine;
  int64_t blocks, batch;
  bool in_registers = false;
  int64_t share = 1, fewest_pieces = 1, most_pieces = 1;
};

// The plan of a split, in as few pieces as fit, with as many groups at once as there are multiprocessors for: blocks
// that share one have half of it each, so that more than one on each is no gain. None where it does not fit.
inline std::optional<Plan> plan_of(const Split& split, const RecurrenceShape& shape, const Gpu& gpu) {
  const auto [engine, blocks, batch, in_registers, share, fewest_pieces, most_pieces] = split;
  Tiling tiling = make_tiling(shape, blocks, batch, fewest_pieces, in_registers);
  if (batch * tiling.units > max_threads(size_of(shape.dtype), in_registers) * kCellsOfThread) return {};
  if (blocks > gpu.n_sm) return {};
  if (in_registers && !fits_in_registers(tiling, shape)) return {};
  int64_t bytes = shared_memory_of(engine, tiling, shape.dtype);
  while (bytes > gpu.shared_memory && tiling.splits > 1 && !in_registers) {
    set_splits(tiling, tiling.splits - 1, warp_tile(math_of(shape), shape.dtype));
    bytes = shared_memory_of(engine, tiling, shape.dtype);
  }
  for (int64_t n = fewest_pieces + 1; bytes > gpu.shared_memory && n <= most_pieces; ++n) {
    tiling = make_tiling(shape, blocks, batch, n);
    bytes = shared_memory_of(engine, tiling, shape.dtype);
  }
  if (bytes > gpu.shared_memory) return {};
  tiling.share = share;
  Plan plan{engine, tiling, bytes};
  estimate(plan, shape, gpu.n_sm / blocks);
  return plan;
}

// The kernels that prefetch (Trials).
inline bool can_prefetch(const Plan& plan) { return plan.engine != Engine::block && !plan.tiling.in_registers; }

// All plans that fit, the fastest by the model first, before a driver is asked.
inline std::vector<Plan> plans_that_fit(const RecurrenceShape& shape, const Gpu& gpu, Engine wanted,
                                        const Trials& trials) {
  std::vector<Plan> plans;
  const auto add = [&](const Split& split) {
    std::optional<Plan> plan = plan_of(split, shape, gpu);
    if (!plan) return;
    if (can_prefetch(*plan)) plan->tiling.prefetch = trials.prefetch;
    plans.push_back(*plan);
  };
  const auto consider = [&](Engine engine, int64_t blocks, int64_t batch, int64_t share = 1) {
    if (wanted != Engine::automatic && wanted != engine) return;
    const bool is_multicast = engine == Engine::multicast;
    if (trials.registers || is_multicast) add({engine, blocks, batch, true, share});
    if (is_multicast) return;
    const bool in_pieces = engine == Engine::grid;
    add({engine, blocks, batch, false, 1, in_pieces ? trials.pieces : 1, in_pieces ? kMaxPieces : 1});
  };
  const bool is_asked_for = wanted == Engine::multicast && trials.multicast == 0;
  const int64_t most_share = gpu.major < 9 ? 0 : is_asked_for ? kMaxShare : trials.multicast;
  const int64_t vector = 16 / size_of(shape.dtype), most_blocks = ceil_div(shape.H, vector);
  for (int64_t batch = warp_tile(math_of(shape), shape.dtype).batch; batch <= kMostSamples; batch *= 2) {
    consider(Engine::block, 1, batch);
    for (int64_t blocks = 2; gpu.major >= 9 && blocks <= std::min<int64_t>(kMaxCluster, most_blocks); blocks *= 2) {
      consider(Engine::cluster, blocks, batch);
    }
    // As many as the GPU has room for, in one launch for all groups or in several; and half of that: fewer blocks to
    // wait for.
    std::set<int64_t, std::greater<>> numbers;
    for (int64_t launches = 1, groups = ceil_div(shape.B, batch); launches <= std::min(groups, kMostLaunches);
         ++launches) {
      const int64_t room = std::min(gpu.n_sm / ceil_div(groups, launches), most_blocks);
      for (int64_t most = room; most >= 2 && most > room / 4; most /= 2) {
        const int64_t units = round_up(ceil_div(shape.H, most), vector);
        numbers.insert(ceil_div(shape.H, units));
      }
    }
    for (const int64_t blocks : numbers) {
      consider(Engine::grid, blocks, batch);
      for (int64_t share = 1; share <= most_share; share *= 2) {
        consider(Engine::multicast, round_up(blocks, share), batch, share);
      }
    }
    if (batch >= shape.B) break;
  }
  std::stable_sort(plans.begin(), plans.end(), [](const Plan& a, const Plan& b) { return a.step_ns < b.step_ns; });
  return plans;
}

// Whether at least one group of the plan runs, as the driver says, and what the model expects of it then.
inline bool is_admitted(Plan& plan, const RecurrenceShape& shape, const Gpu& gpu, const GroupsAtOnce& at_once) {
  const int64_t groups = std::min(gpu.n_sm / plan.tiling.blocks, at_once(plan));
  if (groups < 1) return false;
  plan.groups_at_once = groups;
  estimate(plan, shape, groups);
  return true;
}

// By the model the fastest of all plans that fit and of which at least one group runs. `wanted` restricts the choice to
// one engine. Stepwise where there is none.
inline Plan choose_plan(const RecurrenceShape& shape, const Gpu& gpu, Engine wanted, GroupsAtOnce at_once = {}) {
  if (!at_once) at_once = [&](const Plan& plan) { return groups_at_once(plan, gpu); };
  const double stepwise_ns = estimate_stepwise_ns(shape, gpu);
  const auto stepwise = [&](const std::string& why) {
    Plan plan;
    plan.step_ns = stepwise_ns;
    plan.why = "stepwise: " + why;
    return plan;
  };
  if (wanted == Engine::stepwise) return stepwise("asked for");
  if (shape.B == 0) return stepwise("the batch is empty");
  if (!is_counted(shape)) return stepwise("more steps than 32 bits count");
  std::optional<Plan> best;
  for (Plan& plan : plans_that_fit(shape, gpu, wanted, wanted_trials)) {
    // With fewer groups at once than there are multiprocessors for, it would only be slower.
    if (best && plan.step_ns >= best->step_ns) break;
    if (is_admitted(plan, shape, gpu, at_once) && (!best || plan.step_ns < best->step_ns)) best = plan;
  }
  if (!best && wanted == Engine::multicast) {
    return stepwise("no multicast without clusters of blocks that have W_hh in registers, and all that they copy");
  }
  if (!best) return stepwise("W_hh does not fit into the shared memory of the blocks that can run at once");
  if (wanted == Engine::automatic && best->step_ns > stepwise_ns) {
    return stepwise("the model expects it to be faster than " + describe(*best));
  }
  best->why = describe(*best);
  return *best;
}

// ---------------------------------------------------------------- what a GPU may time

// Whether two plans are one kernel, launched alike.
inline bool are_alike(const Plan& a, const Plan& b) {
  const auto kernel_and_tiling = [](const Plan& plan) {
    const Tiling& t = plan.tiling;
    return std::make_tuple(plan.engine, t.blocks, t.batch, t.piece, t.splits, t.threads, t.in_registers, t.prefetch,
                           t.share);
  };
  return kernel_and_tiling(a) == kernel_and_tiling(b);
}

// Up to so many plans are worth their time, two of a kind, which the model expects to take half as long again as its
// best at most.
constexpr int kMostTimed = 12, kMostTimedOfAKind = 2;
constexpr double kWorthTiming = 1.5;

// The fastest few by the model, its best first, W_hh in registers and not, unless that is not wanted.
inline std::vector<Plan> plans_to_time(const RecurrenceShape& shape, const Gpu& gpu, Engine wanted,
                                       const GroupsAtOnce& at_once) {
  std::vector<Plan> plans;
  std::map<std::tuple<Engine, bool, int64_t>, int> of_kind;
  Trials trials = wanted_trials;  // but for what variants_to_time tries
  trials.prefetch = Trials().prefetch;
  trials.pieces = Trials().pieces;
  for (Plan& plan : plans_that_fit(shape, gpu, wanted, trials)) {
    int& of_this_kind = of_kind[{plan.engine, plan.tiling.in_registers, plan.tiling.share}];
    if (of_this_kind == kMostTimedOfAKind || !is_admitted(plan, shape, gpu, at_once)) continue;
    if (!plans.empty() && plan.step_ns > kWorthTiming * plans.front().step_ns) continue;
    ++of_this_kind;
    plans.push_back(plan);
    if (plans.size() == kMostTimed) break;
  }
  return plans;
}

// The same plan with what its kernel may do beside: `general` as is_general.
inline std::vector<Plan> variants_to_time(const Plan& plan, const RecurrenceShape& shape, const Gpu& gpu, bool general,
                                          const GroupsAtOnce& at_once) {
  std::vector<Plan> plans;
  for (const int64_t steps : {2, 4}) {
    if (general || !can_prefetch(plan)) break;
    plans.push_back(plan);
    plans.back().tiling.prefetch = steps;
  }
  const Tiling& t = plan.tiling;
  if (plan.engine == Engine::grid && !t.in_registers && t.pieces() == 1) {
    std::optional<Plan> halves = plan_of({plan.engine, t.blocks, t.batch, false, 1, 2, kMaxPieces}, shape, gpu);
    if (halves && is_admitted(*halves, shape, gpu, at_once)) plans.push_back(*halves);
  }
  return plans;
}

}  // namespace rnndrop::cuda
