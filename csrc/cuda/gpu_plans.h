// The plans of calls on the GPUs that there are, each remembered for the whole process: the model's, with what the
// driver says about what fits, or, where torch.backends.cudnn.benchmark is set, the one that the GPU itself was fastest
// with.
#pragma once

#include <c10/cuda/CUDAStream.h>

#include <functional>
#include <string>
#include <vector>

#include "cuda/recurrence.h"

namespace rnndrop::cuda {

Gpu current_gpu();

// The model's plan for the current device. `general`: is_general of the call. `is_lasting` becomes false where the
// driver could not say what fits, for want of memory or after another error: it may the next time.
Plan plan_on_current_gpu(const RecurrenceShape& shape, bool general, bool* is_lasting = nullptr);

// What plans of the current device depend on.
struct PlanRequest {
  c10::cuda::CUDAStream stream;
  RecurrenceShape shape;
  bool general;
};

// The model's, remembered for all other lengths of the sequence that a kernel counts.
Plan remembered_plan(const PlanRequest& request);

// Queues the call, cut off after so many steps, as a plan has it, on the request's stream: any number of times.
using RunSteps = std::function<void(const Plan& plan, int64_t steps)>;

// With torch.backends.cudnn.benchmark, of the plans that the model puts first the one that takes the least time, which
// the first call finds out: the host waits for the GPU. Otherwise `of_model`; also where torch is asked for what is
// deterministic, since two plans add in other orders, and where a graph is captured and the shape has not been timed.
Plan fastest_plan(const Plan& of_model, const PlanRequest& request, const RunSteps& run);

// What has been timed, a line for each.
std::vector<std::string> timed_plans();

}  // namespace rnndrop::cuda
