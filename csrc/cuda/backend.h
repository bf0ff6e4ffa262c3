// The CUDA backend: cuBLAS for every GEMM, and for the recurrence one launch (recurrence.h) or, engine "stepwise", a
// GEMM and a kernel a step; gpu_plans.h chooses. All on the caller's device and in the order of the caller's stream.
// Nothing here waits for the GPU, unless torch.backends.cudnn.benchmark has plans timed. register_ops.cpp makes it the
// op's.
#pragma once

#include <c10/cuda/CUDAGuard.h>

#include "cuda/gpu_plans.h"
#include "cuda/primitives.h"
#include "lstm_layer.h"

namespace rnndrop::cuda {

// Lives for one call of the op.
class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(c10::Device device);

  void forward(ForwardCall& call) const override;
  void backward(BackwardCall& call) const override;

  // The model's; of engine stepwise where no other runs this call.
  Plan plan_for(const CheckedInputs& in, bool backward) const;

 private:
  PlanRequest plan_request(const CheckedInputs& in, bool backward) const;
  void run_recurrence(ForwardCall& call, const Plan& of_model) const;
  void run_recurrence(BackwardCall& call, const Plan& of_model) const;
  // With torch.backends.cudnn.benchmark; what `r` writes is not yet anything that is needed.
  template <class R>
  Plan fastest_plan_for(R r, const Plan& of_model, const CheckedInputs& in) const;
  template <class R>
  void launch(const R& r, const Plan& plan, const CheckedInputs& in) const;

  c10::cuda::CUDAGuard guard_;  // first: the primitives are the current device's
  Primitives gpu_;
};

}  // namespace rnndrop::cuda
