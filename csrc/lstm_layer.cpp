#include "lstm_layer.h"

namespace rnndrop {

using at::Tensor;

ForwardResult lstm_layer_forward(const Backend& backend, const LayerInputs& in, bool reverse, bool save) {
  ForwardCall call(in, reverse, save);
  backend.forward(call);
  return call.result();
}

BackwardResult lstm_layer_backward(const Backend& backend, const LayerInputs& in, bool reverse, const Tensor& y,
                                   const Tensor& gates, const Tensor& c, const Tensor& h_full, const OptionalTensor& dy,
                                   const OptionalTensor& dh_n, const OptionalTensor& dc_n, bool need_dx, bool need_dW) {
  BackwardCall call(in, reverse, {y, gates, c, h_full, dy, dh_n, dc_n, need_dx, need_dW});
  backend.backward(call);
  return call.result();
}

}  // namespace rnndrop
