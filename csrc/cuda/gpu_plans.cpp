#include "cuda/gpu_plans.h"

#include <ATen/Context.h>
#include <ATen/cuda/CUDAContextLight.h>
#include <ATen/cuda/CUDAEvent.h>
#include <c10/cuda/CUDAGraphsC10Utils.h>

#include <algorithm>
#include <limits>
#include <map>
#include <mutex>
#include <optional>
#include <sstream>
#include <tuple>

namespace rnndrop::cuda {
namespace {

// Steps that are timed at most; what comes before the first is part of it where sequences are short.
constexpr int64_t kMostSteps = 64;
// Of one measurement together, so that the host's way to the first launch is little of it, in so many launches at most;
// and how often each plan is measured, in turn.
constexpr int64_t kStepsOfAMeasurement = 256, kMostTimedLaunches = 16;
constexpr int kRounds = 3;
// What differs by less is not told apart: the order decides.
constexpr double kNotFaster = 0.98;

// A power of two, so that few lengths are timed apart.
int64_t steps_to_time(int64_t T) {
  int64_t steps = 1;
  while (2 * steps <= std::min(T, kMostSteps)) steps *= 2;
  return steps;
}

// What a plan depends on. Of the device, too: what a kernel may have and how many of its blocks fit is asked of the
// driver, whose answer may differ between two GPUs of a kind.
struct Key {
  c10::DeviceIndex device;
  Gpu gpu;
  RecurrenceShape shape;  // of any T
  bool counted, general;
  Engine engine;
  Trials trials;
  int64_t timed_steps;  // 0: the plan is the model's

  auto tied() const {
    return std::make_tuple(device, gpu.major, gpu.n_sm, gpu.shared_memory, shape.dtype, shape.tf32, shape.B, shape.H,
                           shape.backward, counted, general, engine, trials.registers, trials.prefetch, trials.pieces,
                           trials.multicast, timed_steps);
  }
  bool operator<(const Key& other) const { return tied() < other.tied(); }
};

Key key_of(const PlanRequest& request, int64_t timed_steps = 0) {
  return {request.stream.device_index(),
          current_gpu(),
          request.shape,
          is_counted(request.shape),
          request.general,
          wanted_engine,
          wanted_trials,
          timed_steps};
}

// Of the whole process: forwards and backwards run on threads of their own, and some users' threads are short-lived.
class Memory {
 public:
  std::optional<Plan> find(const Key& key) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto known = plans_.find(key);
    return known == plans_.end() ? std::nullopt : std::optional<Plan>(known->second);
  }
  // Gives what another thread has remembered meanwhile, if any has: all calls run the same.
  Plan remember(const Key& key, const Plan& plan) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return plans_.emplace(key, plan).first->second;
  }
  std::vector<std::string> why_of_timed() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::vector<std::string> lines;
    for (const auto& [key, plan] : plans_) {
      if (key.timed_steps > 0) lines.push_back(plan.why);
    }
    return lines;
  }

 private:
  mutable std::mutex mutex_;
  std::map<Key, Plan> plans_;
};

Memory memory;

GroupsAtOnce groups_by_driver(const RecurrenceShape& shape, bool general, bool* is_lasting) {
  return [=](const Plan& plan) {
    const int64_t groups = with_recurrence_kernels(
        shape.dtype, shape.tf32, [&](auto kernels) { return kernels.groups_at_once(plan, shape.backward, general); });
    if (groups < 0 && is_lasting) *is_lasting = false;
    return groups;
  };
}

bool is_capturing() { return c10::cuda::currentStreamCaptureStatusMayInitCtx() != c10::cuda::CaptureStatus::None; }

// Nanoseconds a step.
double measure(const Plan& plan, int64_t steps, const c10::cuda::CUDAStream& stream, const RunSteps& run) {
  const int64_t launches = std::min(kStepsOfAMeasurement / steps, kMostTimedLaunches);
  at::cuda::CUDAEvent begin(cudaEventDefault), end(cudaEventDefault);
  begin.record(stream);
  for (int64_t k = 0; k < launches; ++k) run(plan, steps);
  end.record(stream);
  end.synchronize();
  constexpr double kNsOfAMillisecond = 1e6;
  return begin.elapsed_time(end) * kNsOfAMillisecond / static_cast<double>(launches * steps);
}

std::string describe(const PlanRequest& request, int64_t steps) {
  const RecurrenceShape& shape = request.shape;
  std::ostringstream text;
  text << "cuda:" << static_cast<int>(request.stream.device_index()) << ' ' << (shape.backward ? "backward" : "forward")
       << " B=" << shape.B << " H=" << shape.H << ' ' << name_of(shape.dtype);
  if (shape.tf32) text << " (tf32)";
  if (request.general) text << ", lengths or noise on the state";
  text << ", timed over " << steps << " steps";
  return text.str();
}

// Whether a plan runs, for once: what a kernel's first launch takes is nobody's time. A driver may refuse what it said
// would fit. That torch has no memory for what the plan works in is the caller's to know.
bool runs(const Plan& plan, int64_t steps, const RunSteps& run) {
  try {
    run(plan, steps);
  } catch (const c10::OutOfMemoryError&) {
    throw;
  } catch (const c10::Error& error) {
    TORCH_WARN("a plan is left out that does not run: ", describe(plan), ": ", error.what_without_backtrace());
    return false;
  }
  return true;
}

// Of some plans, the first of which the others have to be clearly faster than, and which runs.
Plan fastest_of(std::vector<Plan> plans, int64_t steps, const c10::cuda::CUDAStream& stream, const RunSteps& run) {
  run(plans.front(), steps);
  plans.erase(std::remove_if(plans.begin() + 1, plans.end(), [&](const Plan& plan) { return !runs(plan, steps, run); }),
              plans.end());
  for (Plan& plan : plans) plan.timed_ns = std::numeric_limits<double>::infinity();
  for (int round = 0; round < kRounds; ++round) {
    for (Plan& plan : plans) plan.timed_ns = std::min(plan.timed_ns, measure(plan, steps, stream, run));
  }
  Plan fastest = plans.front();
  for (const Plan& plan : plans) {
    if (plan.timed_ns < kNotFaster * fastest.timed_ns) fastest = plan;
  }
  return fastest;
}

}  // namespace

Gpu current_gpu() {
  const cudaDeviceProp* gpu = at::cuda::getCurrentDeviceProperties();
  return {gpu->major, gpu->multiProcessorCount, static_cast<int64_t>(gpu->sharedMemPerBlockOptin)};
}

Plan plan_on_current_gpu(const RecurrenceShape& shape, bool general, bool* is_lasting) {
  return choose_plan(shape, current_gpu(), wanted_engine, groups_by_driver(shape, general, is_lasting));
}

Plan remembered_plan(const PlanRequest& request) {
  const Key key = key_of(request);
  if (const std::optional<Plan> known = memory.find(key)) return *known;
  bool is_lasting = true;
  const Plan plan = plan_on_current_gpu(request.shape, request.general, &is_lasting);
  return is_lasting ? memory.remember(key, plan) : plan;
}

Plan fastest_plan(const Plan& of_model, const PlanRequest& request, const RunSteps& run) {
  const at::Context& context = at::globalContext();
  if (!context.benchmarkCuDNN() || context.deterministicCuDNN() || context.deterministicAlgorithms()) return of_model;
  const RecurrenceShape& shape = request.shape;
  if (shape.T == 0) return of_model;
  const int64_t steps = steps_to_time(shape.T);
  const Key key = key_of(request, steps);
  if (const std::optional<Plan> known = memory.find(key)) return *known;
  if (is_capturing()) return of_model;
  // Another thread may be capturing, whose graph a wait of this one would spoil.
  const c10::cuda::CUDAStreamCaptureModeGuard relaxed(cudaStreamCaptureModeRelaxed);

  // Where the driver has no memory for a kernel, fewer are timed: once, too.
  const GroupsAtOnce at_once = groups_by_driver(shape, request.general, nullptr);
  std::vector<Plan> plans{of_model};
  for (const Plan& plan : plans_to_time(shape, current_gpu(), wanted_engine, at_once)) {
    if (!are_alike(plan, of_model)) plans.push_back(plan);
  }
  Plan fastest = fastest_of(plans, steps, request.stream, run);
  std::vector<Plan> variants = variants_to_time(fastest, shape, current_gpu(), request.general, at_once);
  variants.insert(variants.begin(), fastest);
  if (variants.size() > 1) fastest = fastest_of(variants, steps, request.stream, run);
  fastest.why = describe(request, steps) + ": " + describe(fastest);
  return memory.remember(key, fastest);
}

std::vector<std::string> timed_plans() { return memory.why_of_timed(); }

}  // namespace rnndrop::cuda
