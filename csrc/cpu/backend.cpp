// The CPU backend of the layer op: without a projection the engine, with one the time loop, on ATen's GEMMs and the
// step kernels.
#include <torch/library.h>

#include <algorithm>

#include "cpu/convert.h"
#include "cpu/gemm.h"
#include "cpu/layer_engine.h"
#include "cpu/step_kernels.h"
#include "cpu/threads.h"
#include "cpu/widened_stepwise.h"
#include "lstm_layer.h"
#include "stepwise.h"

namespace rnndrop {
namespace {

using at::Tensor;

// The inputs that only the engine wants dense, for as long as it runs.
struct DenseInputs {
  explicit DenseInputs(const CheckedInputs& in)
      : x(in.x.contiguous()), W_ih(in.W_ih.contiguous()), W_hh(in.W_hh.contiguous()) {}
  Tensor x, W_ih, W_hh;
};

// What the engine is told of a layer in either way.
template <class Layer>
Layer layer_of(const CheckedInputs& in, const DenseInputs& dense) {
  Layer layer;
  layer.dtype = in.dtype;
  layer.T = in.sizes.T;
  layer.B = in.sizes.B;
  layer.I = in.sizes.I;
  layer.H = in.sizes.H;
  layer.order = in.order;
  layer.x = dense.x.const_data_ptr();
  layer.h_0 = in.h_0.const_data_ptr();
  layer.W_ih = dense.W_ih.const_data_ptr();
  layer.W_hh = dense.W_hh.const_data_ptr();
  layer.mask_x = input_mask(in.mask_x);
  layer.mask_h = input_mask(in.mask_h);
  layer.noise = in.noise();
  layer.lengths = lengths_pointer(in);
  return layer;
}

class CpuBackend final : public Backend, private Primitives {
 public:
  void forward(ForwardCall& call) const override {
    call.host_copy = cpu::copy;
    call.put_initial_state();
    if (!call.in.W_hr) return run_engine(call);
    const bool widens = !cpu::multiplies(call.in.x.scalar_type());
    const auto run = widens ? cpu::widened_stepwise_forward : stepwise_forward;
    run(call, *this, steps_per_chunk(call.in, widens));
  }

  void backward(BackwardCall& call) const override {
    call.host_copy = cpu::copy;
    call.make_accumulators();
    if (!call.in.W_hr) return run_engine(call);
    const bool widens = !cpu::multiplies(call.in.x.scalar_type());
    const auto run = widens ? cpu::widened_stepwise_backward : stepwise_backward;
    run(call, *this, steps_per_chunk(call.in, widens));
  }

 private:
  static void run_engine(const ForwardCall& call) {
    const DenseInputs dense(call.in);
    LayerForward layer = layer_of<LayerForward>(call.in, dense);
    layer.b_ih = pointer(call.in.b_ih);
    layer.b_hh = pointer(call.in.b_hh);
    layer.y = call.y.data_ptr();
    if (call.h_n.defined()) layer.h_n = call.h_n.data_ptr();
    if (call.save) layer.gates = call.gates.data_ptr();
    layer.c = call.c.data_ptr();
    cpu::layer_forward(layer);
  }

  static void run_engine(const BackwardCall& call) {
    const DenseInputs dense(call.in);
    LayerBackward layer = layer_of<LayerBackward>(call.in, dense);
    layer.y = call.y.const_data_ptr();
    layer.gates = call.gates.const_data_ptr();
    layer.c = call.c.const_data_ptr();
    layer.dy = pointer(call.dy);
    layer.dh_carry = call.dh_carry.data_ptr();
    layer.dc = call.dc.data_ptr();
    layer.dh_tilde = call.dh_tilde.data_ptr();
    layer.need_dx = call.need_dx;
    layer.dx = call.dx.data_ptr();
    layer.need_dW = call.need_dW;
    call.db.zero_();
    layer.dW_ih = call.dW_ih.data_ptr();
    layer.dW_hh = call.dW_hh.data_ptr();
    layer.db = call.db.data_ptr();
    cpu::layer_backward(layer);
  }

  // Few enough rows that what the GEMM leaves is still in the cache when the steps come to it, and the other way round
  // in the backward; enough for the GEMM to run at full speed. Not for 16 bits that are not widened, whose sums would
  // be rounded once a chunk.
  static int64_t steps_per_chunk(const CheckedInputs& in, bool widens) {
    constexpr int64_t kRows = 1024;
    const bool rounds = in.x.element_size() == 2 && !widens;
    return rounds ? in.sizes.T : std::clamp<int64_t>(kRows / std::max<int64_t>(in.sizes.B, 1), 1, in.sizes.T);
  }

  void gemm(const Tensor& out, const Tensor& a, const Tensor& b, bool accumulate) const override {
    cpu::gemm(out, a, b, accumulate);
  }

  void step_forward(const StepForward& step) const override {
    cpu::parallel_for(step.B, rows_per_task(step.H),
                      [&](int64_t begin, int64_t end) { cpu::step_forward(step, {begin, end, 0, step.H}, {}); });
  }

  void step_backward(const StepBackward& step) const override {
    cpu::parallel_for(step.B, rows_per_task(step.H),
                      [&](int64_t begin, int64_t end) { cpu::step_backward(step, {begin, end, 0, step.H}); });
  }

  bool host_reads() const override { return true; }

  // Waking a thread takes a few microseconds: what it gets must be worth that.
  static int64_t rows_per_task(int64_t H) { return std::max<int64_t>(1, 4096 / H); }
};

CpuBackend make_backend(const Tensor& /*x*/) {
  cpu::check_not_forked();
  return {};
}

}  // namespace

TORCH_LIBRARY_IMPL(rnndrop, CPU, m) {
  m.impl("lstm_layer", OpKernel<lstm_layer_forward, make_backend>::call);
  m.impl("lstm_layer_backward", OpKernel<lstm_layer_backward, make_backend>::call);
}

}  // namespace rnndrop
