// The CPU backend of the layer op: every call is the engine's.
#include "cpu/backend.h"

#include <ATen/ops/empty.h>
#include <ATen/record_function.h>
#include <torch/library.h>

#include <cstring>
#include <stdexcept>

#include "cpu/convert.h"
#include "cpu/from_torch.h"
#include "cpu/layer_engine.h"
#include "cpu/packed_weights.h"
#include "cpu/threads.h"

namespace rnndrop {
namespace {

using at::Tensor;

// The inputs that only the engine wants dense, for as long as it runs.
struct DenseInputs {
  explicit DenseInputs(const CheckedInputs& in)
      : x(in.x.contiguous()),
        h_0(in.initial_h(/*by_host=*/true)),
        W_ih(in.W_ih.contiguous()),
        W_hh(in.W_hh.contiguous()) {}
  Tensor x, h_0, W_ih, W_hh;
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
  layer.P = in.sizes.P;
  layer.order = in.order;
  layer.x = dense.x.const_data_ptr();
  layer.h_0 = dense.h_0.const_data_ptr();
  layer.W_ih = dense.W_ih.const_data_ptr();
  layer.W_hh = dense.W_hh.const_data_ptr();
  layer.W_hr = pointer(in.W_hr);
  layer.mask_x = input_mask(in.mask_x);
  layer.mask_h = input_mask(in.mask_h);
  layer.noise = in.noise();
  layer.lengths = lengths_pointer(in);
  return layer;
}

// Between float32 and 16 bits, or within a type.
void copy_on_host(void* out, c10::ScalarType out_type, const void* in, c10::ScalarType in_type, int64_t n) {
  using c10::BFloat16, c10::Half, c10::ScalarType;
  if (out_type == in_type) {
    std::memcpy(out, in, n * c10::elementSize(in_type));
  } else if (in_type == ScalarType::Float && out_type == ScalarType::Half) {
    cpu::convert(static_cast<Half*>(out), static_cast<const float*>(in), n);
  } else if (in_type == ScalarType::Float && out_type == ScalarType::BFloat16) {
    cpu::convert(static_cast<BFloat16*>(out), static_cast<const float*>(in), n);
  } else if (in_type == ScalarType::Half && out_type == ScalarType::Float) {
    cpu::convert(static_cast<float*>(out), static_cast<const Half*>(in), n);
  } else if (in_type == ScalarType::BFloat16 && out_type == ScalarType::Float) {
    cpu::convert(static_cast<float*>(out), static_cast<const BFloat16*>(in), n);
  } else {
    throw std::logic_error("copy_on_host: no conversion between these types");
  }
}

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(const cpu::PackedWeights& packed = {}) : packed_(packed) {}

  void forward(ForwardCall& call) const override {
    call.host_copy = copy_on_host;
    call.put_initial_state();
    const DenseInputs dense(call.in);
    LayerForward layer = layer_of<LayerForward>(call.in, dense);
    layer.b_ih = pointer(call.in.b_ih);
    layer.b_hh = pointer(call.in.b_hh);
    layer.y = call.y.data_ptr();
    if (call.in.W_hr) layer.h_full = call.h_full.data_ptr();
    if (call.h_n.defined()) layer.h_n = call.h_n.data_ptr();
    if (call.save) layer.gates = call.gates.data_ptr();
    layer.c = call.c.data_ptr();
    cpu::layer_forward(layer, packed_);
  }

  void backward(BackwardCall& call) const override {
    call.host_copy = copy_on_host;
    call.make_accumulators();
    const DenseInputs dense(call.in);
    const Tensor h_full = call.in.W_hr ? call.h_full.contiguous() : Tensor();
    LayerBackward layer = layer_of<LayerBackward>(call.in, dense);
    layer.y = call.y.const_data_ptr();
    if (call.in.W_hr) layer.h_full = h_full.const_data_ptr();
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
    layer.dW_hr = call.dW_hr.data_ptr();
    layer.db = call.db.data_ptr();
    cpu::layer_backward(layer);
  }

 private:
  cpu::PackedWeights packed_;  // of a forward
};

CpuBackend make_backend(const Tensor& /*x*/) { return CpuBackend(); }

}  // namespace

namespace cpu {

PackedLayer::Weight::Weight(const Tensor& W)
    : impl_(W.unsafeGetTensorImpl()), storage_(W.storage()), data_(W.const_data_ptr()), version_(W._version()) {
  const Dtype dtype = dtype_of(W);
  const int64_t H = W.size(0) / kGates, K = W.size(1);
  panels_ = at::empty({packed_bytes(dtype, H, K)}, at::kByte);
  pack_weight(panels_.data_ptr(), dtype, W.contiguous().const_data_ptr(), H, K);
}

PackedLayer::PackedLayer(const Tensor& W_ih, const Tensor& W_hh) : ih_(W_ih), hh_(W_hh) {}

ForwardResult PackedLayer::forward(const Tensor& x, const OptionalTensor& h_0, const OptionalTensor& c_0,
                                   const Tensor& W_ih, const Tensor& W_hh, const OptionalTensor& b_ih,
                                   const OptionalTensor& b_hh, bool reverse) const {
  RECORD_FUNCTION("rnndrop::lstm_layer", c10::ArrayRef<const c10::IValue>());
  const CpuBackend backend({ih_.panels(), hh_.panels()});
  const OptionalTensor none;
  const LayerInputs in{x, h_0, c_0, W_ih, W_hh, b_ih, b_hh, none, none, none, none, none, none, none, none};
  return lstm_layer_forward(backend, in, reverse, /*save=*/false);
}

}  // namespace cpu

TORCH_LIBRARY_IMPL(rnndrop, CPU, m) {
  m.impl("lstm_layer", OpKernel<lstm_layer_forward, make_backend>::call);
  m.impl("lstm_layer_backward", OpKernel<lstm_layer_backward, make_backend>::call);
}

}  // namespace rnndrop
