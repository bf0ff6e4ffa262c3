#include "lstm_layer.h"

namespace rnndrop {

using at::Tensor;

ForwardResult lstm_layer_forward(const Backend& backend, const Tensor& x, const OptionalTensor& h_0,
                                 const OptionalTensor& c_0, const Tensor& W_ih, const Tensor& W_hh,
                                 const OptionalTensor& b_ih, const OptionalTensor& b_hh, const OptionalTensor& W_hr,
                                 const OptionalTensor& mask_x, const OptionalTensor& mask_h,
                                 const OptionalTensor& mask_g, const OptionalTensor& mask_c,
                                 const OptionalTensor& zone_c, const OptionalTensor& zone_h,
                                 const OptionalTensor& lengths, bool reverse, bool save) {
  const LayerInputs in{x,      h_0,    c_0,    W_ih,   W_hh,   b_ih,   b_hh,   W_hr,
                       mask_x, mask_h, mask_g, mask_c, zone_c, zone_h, lengths};
  ForwardCall call(in, reverse, save);
  backend.forward(call);
  return call.result();
}

BackwardResult lstm_layer_backward(const Backend& backend, const Tensor& x, const OptionalTensor& h_0,
                                   const OptionalTensor& c_0, const Tensor& W_ih, const Tensor& W_hh,
                                   const OptionalTensor& b_ih, const OptionalTensor& b_hh, const OptionalTensor& W_hr,
                                   const OptionalTensor& mask_x, const OptionalTensor& mask_h,
                                   const OptionalTensor& mask_g, const OptionalTensor& mask_c,
                                   const OptionalTensor& zone_c, const OptionalTensor& zone_h,
                                   const OptionalTensor& lengths, bool reverse, const Tensor& y, const Tensor& gates,
                                   const Tensor& c, const Tensor& h_full, const OptionalTensor& dy,
                                   const OptionalTensor& dh_n, const OptionalTensor& dc_n, bool need_dx, bool need_dW) {
  const LayerInputs in{x,      h_0,    c_0,    W_ih,   W_hh,   b_ih,   b_hh,   W_hr,
                       mask_x, mask_h, mask_g, mask_c, zone_c, zone_h, lengths};
  BackwardCall call(in, reverse, {y, gates, c, h_full, dy, dh_n, dc_n, need_dx, need_dW});
  backend.backward(call);
  return call.result();
}

}  // namespace rnndrop
