#include "cuda/stepwise_projection.h"

#define AT_PER_OPERATOR_HEADERS
#include <ATen/TensorOperators.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

namespace rnndrop::cuda {

using at::Tensor;

void ProjectedState::forward(int64_t t, const Tensor& y, const Tensor& h_state, const Tensor& h_tilde_next) const {
  if (in_.zone_h) {
    const Tensor z = zone_at(t), h = z * h_state + (1 - z) * y;
    y.copy_(in_.lengths ? at::where(running(t), h, at::zeros({}, h.options())) : h);
  }
  if (h_state.defined()) h_state.copy_(in_.lengths ? at::where(running(t), y, h_state) : y);
  if (!h_tilde_next.defined()) return;
  const Tensor& h = in_.lengths ? h_state : y;
  const Tensor* const mask_h = in_.mask_h_of_samples();
  Tensor out = h_tilde_next;
  mask_h ? at::mul_out(out, h, *mask_h) : out.copy_(h);
}

Tensor ProjectedState::backward(int64_t t, const OptionalTensor& dy, const Tensor& dh_tilde_next,
                                const Tensor& carry) const {
  const Tensor* const mask_h = in_.mask_h_of_samples();
  Tensor dh = carry;
  if (dh_tilde_next.defined()) {
    const Tensor through_mask = mask_h ? dh_tilde_next.to(carry.scalar_type()) * *mask_h : dh_tilde_next;
    dh = dh + (through_mask.dim() == 3 ? through_mask.sum(0) : through_mask);
  }
  const Tensor total = dy ? dh + *dy : dh, zero = at::zeros({}, carry.options());
  const Tensor z = in_.zone_h ? zone_at(t).to(carry.scalar_type()) : zero;
  const Tensor dh_t = in_.lengths ? at::where(running(t), (1 - z) * total, zero) : (1 - z) * total;
  // Last: dh and total may be carry itself.
  carry.copy_(in_.lengths ? at::where(running(t), z * total, dh) : z * total);
  return dh_t;
}

Tensor ProjectedState::zone_at(int64_t t) const {
  return in_.zone_h->dim() == 3 ? in_.zone_h->select(0, t) : *in_.zone_h;
}

Tensor ProjectedState::running(int64_t t) const { return in_.lengths->gt(t).unsqueeze(1); }

}  // namespace rnndrop::cuda
