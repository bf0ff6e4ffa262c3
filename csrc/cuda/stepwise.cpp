// Forward, a step:
//
//   x~_t = m_x * x_t    h~ = m_h * h_{t-1}    a_t = W_ih x~_t + W_hh h~ + b_ih + b_hh    then lstm_cell.h
//
// Masks that the batch shares are in the weights (gate_gemms.h). One for each sample multiplies x once, and h inside
// the step kernel; one for each gate and sample makes four x~ or h~, each with a product of its own.
#include "cuda/stepwise.h"

#define AT_PER_OPERATOR_HEADERS
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>

#include "cuda/gate_gemms.h"
#include "cuda/stepwise_projection.h"

namespace rnndrop::cuda {
namespace {

using at::Tensor;

// work(t) for every step
template <class Work>
void for_each_step(const TimeOrder& order, const Work& work) {
  for (int64_t k = 0, t = order.first(); k < order.T; ++k, t = order.next(t)) work(t);
}

// The noise that the step kernel applies: with a projection that on h is not its business, but ProjectedState's.
LayerNoise noise_of_kernel(const CheckedInputs& in) {
  LayerNoise noise = in.noise();
  if (in.W_hr) noise.zone_h = {};
  return noise;
}

// What the forward and the backward step are told alike.
template <class Step>
Step step_of(const CheckedInputs& in, const LayerNoise& noise, int64_t t) {
  Step step;
  step.dtype = in.dtype;
  step.B = in.sizes.B;
  step.H = in.sizes.H;
  step.t = t;
  step.noise = noise.at_step(t);
  step.lengths = lengths_pointer(in);
  step.n_h_tilde = in.h_tilde_per_gate() ? kGates : 1;
  if (const Tensor* mask_h = in.mask_h_of_samples(); mask_h && !in.W_hr) step.mask_h = mask_h->const_data_ptr();
  return step;
}

// ---------------------------------------------------------------- forward

class ForwardLoop {
 public:
  ForwardLoop(const ForwardCall& call, const Primitives& gpu)
      : call_(call),
        in_(call.in),
        gpu_(gpu),
        noise_(noise_of_kernel(call.in)),
        h_0_(in_.initial_h(/*by_host=*/false)),
        W_hh_(masked_columns(gpu, in_.W_hh, in_.mask_h, in_.dtype)),
        W_hr_t_(in_.W_hr ? in_.W_hr->t() : Tensor()),
        projected_(in_),
        gates_(call.save ? call.gates : at::empty({in_.sizes.T, in_.sizes.B, 4 * in_.sizes.H}, in_.options())) {
    const Tensor* const mask_h = in_.mask_h_of_samples();
    if (mask_h) {
      h_tilde_ = (h_0_ * *mask_h).contiguous();
    } else if (in_.lengths && in_.order.reverse) {
      h_tilde_ = h_0_.clone();
    }
  }

  void run() {
    project_input(gpu_, in_, gates_);
    for_each_step(in_.order, [&](int64_t t) {
      const Tensor of_step = gates_.select(0, t);
      multiply_gates(gpu_, of_step, h_in(t), W_hh_, true);
      run_step(t, of_step);
    });
  }

 private:
  // What follows the products.
  void run_step(int64_t t, const Tensor& gates) {
    const Tensor y = call_.y.select(0, t);
    const Tensor h_full = in_.W_hr ? call_.h_full.select(0, call_.save ? t : 0) : y;
    gpu_.step_forward(step_at(t, gates, h_full));
    if (!in_.W_hr) return;
    gpu_.gemm(y, h_full, W_hr_t_, false);
    projected_.forward(t, y, call_.h_n, h_tilde_);
  }

  // What the recurrent GEMM multiplies: h~ where it is kept, else h as it is.
  Tensor h_in(int64_t t) const {
    if (h_tilde_.defined()) return h_tilde_;
    return t == in_.order.first() ? h_0_ : call_.y.select(0, in_.order.before(t));
  }

  StepForward step_at(int64_t t, const Tensor& gates, const Tensor& h_full) const {
    StepForward step = step_of<StepForward>(in_, noise_, t);
    step.b_ih = pointer(in_.b_ih);
    step.b_hh = pointer(in_.b_hh);
    step.gates = gates.data_ptr();
    step.c_prev = call_.c_at(in_.order.slot_before(t)).const_data_ptr();
    step.c = call_.c_at(in_.order.slot(t)).data_ptr();
    step.y = h_full.data_ptr();
    if (in_.W_hr) return step;  // what is missing is the projected h's
    if (h_tilde_.defined()) step.h_tilde_next = h_tilde_.data_ptr();
    if (call_.h_n.defined()) step.h_state = call_.h_n.data_ptr();
    return step;
  }

  const ForwardCall& call_;
  const CheckedInputs& in_;
  const Primitives& gpu_;
  LayerNoise noise_;
  Tensor h_0_, W_hh_, W_hr_t_;
  ProjectedState projected_;
  Tensor gates_;  // W_ih x~ of all steps, and then the gates themselves
  // The recurrent GEMM's input, where it is not just h_0 and y: masked, or, where y is 0 though the sample has yet to
  // begin, the h that is carried. Else undefined.
  Tensor h_tilde_;
};

// ---------------------------------------------------------------- backward

class BackwardLoop {
 public:
  BackwardLoop(const BackwardCall& call, const Primitives& gpu)
      : call_(call),
        in_(call.in),
        gpu_(gpu),
        backwards_{in_.order.T, !in_.order.reverse},
        noise_(noise_of_kernel(call.in)),
        W_hh_(masked_columns(gpu, in_.W_hh, in_.mask_h, in_.dtype)),
        projected_(in_),
        da_(at::empty({in_.sizes.T, in_.sizes.B, 4 * in_.sizes.H}, in_.options())) {
    const auto [T, B, I, H, P] = in_.sizes;
    if (!in_.W_hr) return;
    dh_ = at::empty({T, B, P}, in_.options());
    dh_full_ = at::empty({B, H}, in_.options());
  }

  void run() {
    for_each_step(backwards_, [&](int64_t t) {
      const Tensor of_step = da_.select(0, t);
      run_step(t, of_step);
      input_gradient(gpu_, call_.dh_tilde, of_step, W_hh_);
    });
    sequence_gradients(gpu_, call_, da_);
    if (in_.W_hr && call_.need_dW) {
      gpu_.gemm(call_.dW_hr, as_rows(dh_).t(), as_rows(call_.h_full.contiguous()), false);
    }
  }

 private:
  // What comes before the products.
  void run_step(int64_t t, const Tensor& da) {
    const OptionalTensor dy = call_.dy ? OptionalTensor(call_.dy->select(0, t)) : std::nullopt;
    if (in_.W_hr) {
      const Tensor dh = dh_.select(0, t);
      dh.copy_(projected_.backward(t, dy, t == backwards_.first() ? Tensor() : call_.dh_tilde, call_.dh_carry));
      gpu_.gemm(dh_full_, dh, *in_.W_hr, false);
    }
    gpu_.step_backward(step_at(t, in_.W_hr ? OptionalTensor(dh_full_) : dy, da));
  }

  StepBackward step_at(int64_t t, const OptionalTensor& dy, const Tensor& da) const {
    const bool first = t == backwards_.first();
    StepBackward step = step_of<StepBackward>(in_, noise_, t);
    step.gates = call_.gates.select(0, t).const_data_ptr();
    step.c_prev = call_.c.select(0, in_.order.slot_before(t)).const_data_ptr();
    step.c = call_.c.select(0, in_.order.slot(t)).const_data_ptr();
    step.dy = pointer(dy);
    step.dc = call_.dc.data_ptr();
    step.da = da.data_ptr();
    if (in_.W_hr) return step;  // what is missing is the projected h's
    if (!first) step.dh_tilde_next = call_.dh_tilde.const_data_ptr();
    // Without lengths and zoneout only the first of these steps has a gradient to take from it: dh_n.
    if (first || in_.lengths || in_.zone_h) step.dh_carry = call_.dh_carry.data_ptr();
    return step;
  }

  const BackwardCall& call_;
  const CheckedInputs& in_;
  const Primitives& gpu_;
  TimeOrder backwards_;
  LayerNoise noise_;
  Tensor W_hh_;
  ProjectedState projected_;
  Tensor da_;       // scalar [T,B,4H]
  Tensor dh_;       // dL/dh_t of all steps, what W_hr's GEMMs take; undefined without W_hr
  Tensor dh_full_;  // dL/d(o * tanh(c)) of one step; likewise
};

}  // namespace

void stepwise_forward(const ForwardCall& call, const Primitives& gpu) { ForwardLoop(call, gpu).run(); }

void stepwise_backward(const BackwardCall& call, const Primitives& gpu) { BackwardLoop(call, gpu).run(); }

}  // namespace rnndrop::cuda
