// What noise and lengths do to h in a layer with a projection, where h is made by a GEMM behind the step kernel. Such a
// layer is rare enough that a few small operations a step will do.
#pragma once

#include "layer_inputs.h"

namespace rnndrop::cuda {

class ProjectedState {
 public:
  explicit ProjectedState(const CheckedInputs& in) : in_(in) {}

  // y in: W_hr (o * tanh(c)) of step t, out: h_t, or 0 past the end. h_state, from h_0 to h_n, and h~ of the next step
  // are brought up to date where they are defined.
  void forward(int64_t t, const at::Tensor& y, const at::Tensor& h_state, const at::Tensor& h_tilde_next) const;

  // dL/dh_t, what the projection's GEMM takes. carry in/out: as StepBackward::dh_carry. dh_tilde_next: of the step
  // after this, undefined where there is none.
  at::Tensor backward(int64_t t, const OptionalTensor& dy, const at::Tensor& dh_tilde_next,
                      const at::Tensor& carry) const;

 private:
  at::Tensor zone_at(int64_t t) const;
  at::Tensor running(int64_t t) const;

  const CheckedInputs& in_;
};

}  // namespace rnndrop::cuda
