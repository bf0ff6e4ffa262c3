// What every backend has and the code that all share is made of: a matrix product, and the pointwise half of a step.
#pragma once

#include <ATen/core/Tensor.h>

#include "params.h"

namespace rnndrop {

class Primitives {
 public:
  virtual ~Primitives() = default;
  // out[M,N] = a[M,K] b[K,N], or out += with accumulate. out is row-major; each of a and b is row-major or the
  // transpose of it; rows may lie further apart than they are long. Sizes may be 0.
  virtual void gemm(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, bool accumulate) const = 0;
  virtual void step_forward(const StepForward& step) const = 0;
  virtual void step_backward(const StepBackward& step) const = 0;
  // Of as many matrices as a call has weights and gradients.
  virtual void mask_rows(c10::ArrayRef<MaskedRows> matrices, Dtype dtype) const = 0;
};

}  // namespace rnndrop
