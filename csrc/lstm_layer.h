// The op `rnndrop::lstm_layer` and its backward, one LSTM layer in one direction: schemas and routing.
//
// Flow: op -> lstm_layer_forward/_backward (checks and allocates: layer_call.h) -> Backend -> its engine ->
// lstm_cell.h. Nothing climbs back.
#pragma once

#include "layer_call.h"

namespace rnndrop {

inline constexpr const char* kLayerSchema =
    "lstm_layer(Tensor x, Tensor? h_0, Tensor? c_0, Tensor W_ih, Tensor W_hh, Tensor? b_ih, Tensor? b_hh, Tensor? "
    "W_hr, "
    "Tensor? mask_x, Tensor? mask_h, Tensor? mask_g, Tensor? mask_c, Tensor? zone_c, Tensor? zone_h, "
    "Tensor? lengths, bool reverse, bool save) "
    "-> (Tensor y, Tensor h_n, Tensor c_n, Tensor gates, Tensor c, Tensor h_full)";
inline constexpr const char* kLayerBackwardSchema =
    "lstm_layer_backward(Tensor x, Tensor? h_0, Tensor? c_0, Tensor W_ih, Tensor W_hh, Tensor? b_ih, Tensor? b_hh, "
    "Tensor? W_hr, Tensor? mask_x, Tensor? mask_h, Tensor? mask_g, Tensor? mask_c, Tensor? zone_c, Tensor? zone_h, "
    "Tensor? lengths, bool reverse, Tensor y, Tensor gates, Tensor c, Tensor h_full, Tensor? dy, Tensor? dh_n, "
    "Tensor? dc_n, bool need_dx, bool need_dW) "
    "-> (Tensor dx, Tensor dh_0, Tensor dc_0, Tensor dW_ih, Tensor dW_hh, Tensor db_ih, "
    "Tensor db_hh, Tensor dW_hr)";

// A device's way to fill the outputs of a call.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual void forward(ForwardCall& call) const = 0;
  virtual void backward(BackwardCall& call) const = 0;
};

// c_0 and what b_ih and b_hh hold enter no formula of the backward: the double backward starts from all inputs.
ForwardResult lstm_layer_forward(const Backend& backend, const LayerInputs& in, bool reverse, bool save);
BackwardResult lstm_layer_backward(const Backend& backend, const LayerInputs& in, bool reverse, const at::Tensor& y,
                                   const at::Tensor& gates, const at::Tensor& c, const at::Tensor& h_full,
                                   const OptionalTensor& dy, const OptionalTensor& dh_n, const OptionalTensor& dc_n,
                                   bool need_dx, bool need_dW);

// One of the two above as an op: an argument for each tensor.
template <auto layer>
struct Op;
template <class Result, class... Rest, Result (*layer)(const Backend&, const LayerInputs&, Rest...)>
struct Op<layer> {
  template <auto make_backend>
  static Result call(const at::Tensor& x, const OptionalTensor& h_0, const OptionalTensor& c_0, const at::Tensor& W_ih,
                     const at::Tensor& W_hh, const OptionalTensor& b_ih, const OptionalTensor& b_hh,
                     const OptionalTensor& W_hr, const OptionalTensor& mask_x, const OptionalTensor& mask_h,
                     const OptionalTensor& mask_g, const OptionalTensor& mask_c, const OptionalTensor& zone_c,
                     const OptionalTensor& zone_h, const OptionalTensor& lengths, Rest... rest) {
    return layer(make_backend(x),
                 {x, h_0, c_0, W_ih, W_hh, b_ih, b_hh, W_hr, mask_x, mask_h, mask_g, mask_c, zone_c, zone_h, lengths},
                 rest...);
  }
  using Type = decltype(call<nullptr>);
};
template <auto layer>
using OpType = typename Op<layer>::Type;

// Its kernel, on the backend that make_backend(x) gives.
template <auto layer, auto make_backend>
struct OpKernel {
  static constexpr auto* call = &Op<layer>::template call<make_backend>;
};

}  // namespace rnndrop
