// The CUDA backend: cuBLAS for every GEMM, and for the recurrence one launch (recurrence.h) or, engine "stepwise", a
// GEMM and a kernel a step; gpu_plans.h chooses. All on the caller's device and in the order of the caller's stream.
// Nothing here waits for the GPU, unless torch.backends.cudnn.benchmark has plans timed. register_ops.cpp makes it the
// op's.
//
// cuBLAS is called directly and not through at::addmm, which follows torch.backends.cuda.matmul's TF32 switch where
// nn.LSTM follows cuDNN's, and costs a dispatch through ATen at each step.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/cuda/CUDAContextLight.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "cuda/gpu_plans.h"
#include "gate_gemms.h"
#include "lstm_layer.h"
#include "primitives.h"

namespace rnndrop::cuda {

// Lives for one call of the op, in which nobody else uses this thread's cuBLAS handle.
class CudaBackend final : public Backend, public Primitives {
 public:
  explicit CudaBackend(c10::Device device);

  void forward(ForwardCall& call) const override;
  void backward(BackwardCall& call) const override;

  void gemm(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, bool accumulate) const override;
  void step_forward(const StepForward& step) const override;
  void step_backward(const StepBackward& step) const override;
  void mask_rows(c10::ArrayRef<MaskedRows> matrices, Dtype dtype) const override;

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

  c10::cuda::CUDAGuard guard_;  // first: the stream and the handle are the current device's
  c10::cuda::CUDAStream stream_;
  cublasHandle_t cublas_;
  bool tf32_;
};

}  // namespace rnndrop::cuda
