// What a call on CUDA is made of beside the recurrence's launch: matrix products, the pointwise half of a step, rows
// times masks. Each is enqueued on the stream that was current when this was made, and nothing waits for the GPU.
//
// cuBLAS is called directly and not through at::addmm, which follows torch.backends.cuda.matmul's TF32 switch where
// nn.LSTM follows cuDNN's, and costs a dispatch through ATen at each step.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/cuda/CUDAContextLight.h>
#include <c10/cuda/CUDAStream.h>

#include "cuda/masked_rows.h"
#include "params.h"

namespace rnndrop::cuda {

// Of the current device. Lives for one call of the op, in which nobody else uses this thread's cuBLAS handle.
class Primitives {
 public:
  Primitives();

  // out[M,N] = a[M,K] b[K,N], or out += with accumulate. out is row-major; each of a and b is row-major or the
  // transpose of it; rows may lie further apart than they are long. Sizes may be 0.
  void gemm(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, bool accumulate) const;
  void step_forward(const StepForward& step) const;
  void step_backward(const StepBackward& step) const;
  // Of as many matrices as a call has weights and gradients.
  void mask_rows(c10::ArrayRef<MaskedRows> matrices, Dtype dtype) const;

  const c10::cuda::CUDAStream& stream() const { return stream_; }
  // Whether products of float32 may be rounded as nn.LSTM's are.
  bool tf32() const { return tf32_; }

 private:
  c10::cuda::CUDAStream stream_;
  cublasHandle_t cublas_;
  bool tf32_;
};

}  // namespace rnndrop::cuda
