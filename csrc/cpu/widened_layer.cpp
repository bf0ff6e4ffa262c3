#include "cpu/widened_layer.h"

#define AT_PER_OPERATOR_HEADERS
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/where.h>

#include <algorithm>

#include "cpu/layer_engine.h"
#include "cpu/layer_schedule.h"

namespace rnndrop::cpu {
namespace {

using at::Tensor;

// Rows of a chunk. The engine packs the weights anew for each and returns gradients of them that are to be added up,
// which is worth some ten rows each; the gates of twice as many would not stay in the third-level cache at H=512.
constexpr int64_t kRowsAtOnce = 2048;

int64_t steps_at_once(const Sizes& sizes) {
  return std::clamp<int64_t>(kRowsAtOnce / std::max<int64_t>(sizes.B, 1), 1, sizes.T);
}

// Dense, in float32.
Tensor widen(const Tensor& tensor) {
  return tensor.to(at::kFloat, /*non_blocking=*/false, /*copy=*/false, at::MemoryFormat::Contiguous);
}
OptionalTensor widen(const OptionalTensor& tensor) { return tensor ? OptionalTensor(widen(*tensor)) : std::nullopt; }

// A tensor [T,B,K] of the call, and a chunk of it in float32.
class Sequence {
 public:
  Sequence(const Tensor& tensor, int64_t steps_at_once)
      : tensor_(tensor),
        chunk_(at::empty({steps_at_once, tensor.size(1), tensor.size(2)}, tensor.options().dtype(at::kFloat))) {}

  float* chunk() const { return chunk_.data_ptr<float>(); }
  Tensor chunk_at(int64_t step) const { return chunk_.select(0, step); }
  const float* widen(const Steps& steps) const {
    chunk_.narrow(0, 0, steps.n).copy_(tensor_.narrow(0, steps.begin, steps.n));
    return chunk();
  }
  void narrow(const Steps& steps) const { tensor_.narrow(0, steps.begin, steps.n).copy_(chunk_.narrow(0, 0, steps.n)); }

 private:
  Tensor tensor_, chunk_;
};

// A noise on [B,H], widened once where it serves every step, else a chunk at a time.
class Noise {
 public:
  Noise(const OptionalTensor& noise, const SequenceNoise& layout) : noise_(noise), layout_(layout) {
    layout_.step_bytes *= sizeof(float) / 2;
    if (noise && layout_.step_bytes == 0) wide_ = widen(*noise);
  }

  SequenceNoise widen_chunk(const Steps& steps) {
    if (layout_.step_bytes > 0) wide_ = widen(noise_->narrow(0, steps.begin, steps.n));
    if (noise_) layout_.data = wide_.const_data_ptr();
    return layout_;
  }

 private:
  const OptionalTensor& noise_;
  SequenceNoise layout_;
  Tensor wide_;
};

// What the forward and the backward of a chunk read alike.
class Inputs {
 public:
  explicit Inputs(const CheckedInputs& in)
      : in_(in),
        steps_at_once(cpu::steps_at_once(in.sizes)),
        h_0(widen(in.h_0)),
        mask_h(widen(in.mask_h)),
        x_(in.x, steps_at_once),
        W_ih_(widen(in.W_ih)),
        W_hh_(widen(in.W_hh)),
        mask_x_(widen(in.mask_x)),
        mask_g_(in.mask_g, in.noise().mask_g),
        mask_c_(in.mask_c, in.noise().mask_c),
        zone_c_(in.zone_c, in.noise().zone_c),
        zone_h_(in.zone_h, in.noise().zone_h) {}

  // `h_before` [B,H]: h before the first of the steps.
  template <class Layer>
  Layer layer_at(const Steps& steps, const Tensor& h_before) {
    Layer layer;
    layer.dtype = Dtype::float32;
    layer.T = steps.n;
    layer.B = in_.sizes.B;
    layer.I = in_.sizes.I;
    layer.H = in_.sizes.H;
    layer.order = {steps.n, in_.order.reverse};
    layer.x = x_.widen(steps);
    layer.h_0 = h_before.const_data_ptr();
    layer.W_ih = W_ih_.const_data_ptr();
    layer.W_hh = W_hh_.const_data_ptr();
    layer.mask_x = input_mask(mask_x_);
    layer.mask_h = input_mask(mask_h);
    layer.noise = {mask_g_.widen_chunk(steps), mask_c_.widen_chunk(steps), zone_c_.widen_chunk(steps),
                   zone_h_.widen_chunk(steps)};
    // Past their end before the chunk: a length of 0 or less.
    if (in_.lengths) lengths_ = *in_.lengths - steps.begin;
    layer.lengths = in_.lengths ? lengths_.const_data_ptr<int64_t>() : nullptr;
    return layer;
  }

 private:
  const CheckedInputs& in_;

 public:
  const int64_t steps_at_once;
  const Tensor h_0;
  const OptionalTensor mask_h;

 private:
  Sequence x_;
  Tensor W_ih_, W_hh_;
  OptionalTensor mask_x_;
  Noise mask_g_, mask_c_, zone_c_, zone_h_;
  Tensor lengths_;  // of a chunk
};

// ---------------------------------------------------------------- forward

class Forward {
 public:
  explicit Forward(const ForwardCall& call)
      : call_(call),
        order_(call.in.order),
        inputs_(call.in),
        b_ih_(widen(call.in.b_ih)),
        b_hh_(widen(call.in.b_hh)),
        y_(call.y, inputs_.steps_at_once),
        h_(inputs_.h_0) {
    if (call.h_n.defined()) h_n_ = h_.clone();
    if (call.save) gates_.emplace(call.gates, inputs_.steps_at_once);
    if (!call.save) c_ = at::empty_like(call.c);
  }

  void run() {
    for_each_chunk(order_, inputs_.steps_at_once, [&](int64_t begin, int64_t n) { run_chunk({begin, n}); });
    if (call_.h_n.defined()) call_.h_n.copy_(h_n_);
  }

 private:
  void run_chunk(const Steps& steps) {
    LayerForward layer = inputs_.layer_at<LayerForward>(steps, h_);
    layer.b_ih = pointer(b_ih_);
    layer.b_hh = pointer(b_hh_);
    layer.y = y_.chunk();
    if (h_n_.defined()) layer.h_n = h_n_.data_ptr();
    if (call_.save) layer.gates = gates_->chunk();
    layer.c = call_.save ? call_.c.select(0, steps.begin).data_ptr() : c_.data_ptr();
    const TimeOrder& order = layer.order;
    // Without saved gates a state's place depends on its step, which the chunk counts from its own begin.
    const auto c_at = [&](int64_t slot) { return c_.select(0, layer.c_slot(slot)); };
    const auto c_of_call_at = [&](int64_t slot) { return call_.c_at(steps.begin + slot); };
    const int64_t before = order.slot_before(order.first()), last = order.slot(order.last());
    if (!call_.save) c_at(before).copy_(c_of_call_at(before));
    layer_forward(layer);
    if (!call_.save) c_of_call_at(last).copy_(c_at(last));
    y_.narrow(steps);
    if (call_.save) gates_->narrow(steps);
    h_.copy_(h_n_.defined() ? h_n_ : y_.chunk_at(order.last()));
  }

  const ForwardCall& call_;
  const TimeOrder& order_;
  Inputs inputs_;
  OptionalTensor b_ih_, b_hh_;
  Sequence y_;
  std::optional<Sequence> gates_;
  Tensor h_;    // h before the chunk. Not h_n_, which a thread may write before another has read this.
  Tensor h_n_;  // h after the chunk, where it is not y's last; else undefined
  Tensor c_;    // as in the call where nothing is saved; else undefined
};

// ---------------------------------------------------------------- backward

// A weight's gradient, in float32: the sum of those of the chunks.
class WeightGradientSum {
 public:
  WeightGradientSum(const Tensor& dW, bool several_chunks)
      : dW_(dW), sum_(at::empty(dW.sizes(), dW.options().dtype(at::kFloat))) {
    if (several_chunks) addend_ = at::empty_like(sum_);
  }
  void* chunk() const { return (has_sum_ ? addend_ : sum_).data_ptr(); }
  void add_chunk() {
    if (has_sum_) sum_ += addend_;
    has_sum_ = true;
  }
  void store() const { dW_.copy_(sum_); }

 private:
  Tensor dW_, sum_, addend_;
  bool has_sum_ = false;
};

class Backward {
 public:
  explicit Backward(const BackwardCall& call)
      : call_(call),
        order_(call.in.order),
        inputs_(call.in),
        y_(call.y, inputs_.steps_at_once),
        gates_(call.gates, inputs_.steps_at_once),
        dh_tilde_(at::empty(call.dh_tilde.sizes(), call.in.acc_options())),
        dW_ih_(call.dW_ih, inputs_.steps_at_once < order_.T),
        dW_hh_(call.dW_hh, inputs_.steps_at_once < order_.T) {
    if (call.dy) dy_.emplace(*call.dy, inputs_.steps_at_once);
    if (call.need_dx) dx_.emplace(call.dx, inputs_.steps_at_once);
  }

  void run() {
    const TimeOrder backwards{order_.T, !order_.reverse};
    for_each_chunk(backwards, inputs_.steps_at_once, [&](int64_t begin, int64_t n) {
      const Steps steps{begin, n};
      if (!steps.contains(backwards.first())) carry_dh();
      run_chunk(steps);
    });
    call_.dh_tilde.copy_(dh_tilde_);
    if (!call_.need_dW) return;
    dW_ih_.store();
    dW_hh_.store();
  }

 private:
  void run_chunk(const Steps& steps) {
    const Tensor h_before = h_before_step(steps.first(order_));
    LayerBackward layer = inputs_.layer_at<LayerBackward>(steps, h_before);
    layer.y = y_.widen(steps);
    layer.gates = gates_.widen(steps);
    layer.c = call_.c.select(0, steps.begin).const_data_ptr();
    if (dy_) layer.dy = dy_->widen(steps);
    layer.dh_carry = call_.dh_carry.data_ptr();
    layer.dc = call_.dc.data_ptr();
    layer.dh_tilde = dh_tilde_.data_ptr();
    layer.need_dx = call_.need_dx;
    if (dx_) layer.dx = dx_->chunk();
    layer.need_dW = call_.need_dW;
    layer.dW_ih = dW_ih_.chunk();
    layer.dW_hh = dW_hh_.chunk();
    layer.db = call_.db.data_ptr();
    layer_backward(layer);
    if (dx_) dx_->narrow(steps);
    if (!call_.need_dW) return;
    dW_ih_.add_chunk();
    dW_hh_.add_chunk();
  }

  Tensor h_before_step(int64_t t) const {
    if (t == order_.first()) return inputs_.h_0;
    const Tensor h = widen(call_.y.select(0, order_.before(t)));
    if (!call_.in.lengths || !order_.reverse) return h;
    // Backwards in time a sample begins at its own end, in this chunk or later; y is 0 past it.
    return at::where((*call_.in.lengths <= t + 1).unsqueeze(1), inputs_.h_0, h);
  }

  // dL/dh after the next chunk, the earlier in the forward's order: what this one's first step brings to it, and where
  // lengths or zoneout hand on a gradient past the products, that too.
  void carry_dh() const {
    Tensor dh = call_.in.mask_h_of_samples() ? dh_tilde_ * *inputs_.mask_h : dh_tilde_;
    if (call_.in.h_tilde_per_gate()) dh = dh.sum(0);
    if (call_.in.lengths || call_.in.zone_h) dh = dh + call_.dh_carry;
    call_.dh_carry.copy_(dh);
  }

  const BackwardCall& call_;
  const TimeOrder& order_;
  Inputs inputs_;
  Sequence y_, gates_;
  std::optional<Sequence> dy_, dx_;
  Tensor dh_tilde_;
  WeightGradientSum dW_ih_, dW_hh_;
};

}  // namespace

void widened_forward(const ForwardCall& call) { Forward(call).run(); }
void widened_backward(const BackwardCall& call) { Backward(call).run(); }

}  // namespace rnndrop::cpu
