// One LSTM layer in one direction: the op's schemas, what a backend provides, and the time loop that every backend
// shares.
//
// Flow: op -> lstm_layer_forward/_backward (checks, time loop) -> Backend (GEMM, pointwise step) -> lstm_cell.h.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

#include "lstm_step.h"

namespace rnndrop {

inline constexpr const char* kLayerSchema =
    "lstm_layer(Tensor x, Tensor h_0, Tensor c_0, Tensor W_ih, Tensor W_hh, Tensor? b_ih, Tensor? b_hh, "
    "Tensor? mask_x, Tensor? mask_h, Tensor? mask_g, Tensor? lengths, bool reverse) "
    "-> (Tensor y, Tensor h_n, Tensor c_n, Tensor gates, Tensor c, Tensor h_tilde)";
inline constexpr const char* kLayerBackwardSchema =
    "lstm_layer_backward(Tensor x, Tensor h_0, Tensor W_ih, Tensor W_hh, Tensor? mask_x, Tensor? mask_h, "
    "Tensor? mask_g, Tensor? lengths, bool reverse, Tensor y, Tensor gates, Tensor c, Tensor h_tilde, Tensor? dy, "
    "Tensor? dh_n, Tensor? dc_n, bool need_dx, bool need_dW) "
    "-> (Tensor dx, Tensor dh_0, Tensor dc_0, Tensor dW_ih, Tensor dW_hh, Tensor db)";

class Backend {
 public:
  virtual ~Backend() = default;
  // out[M,N] = a[M,K] b[K,N], or out += with accumulate. out is row-major; each of a and b is row-major or the
  // transpose of it. Sizes may be 0.
  virtual void gemm(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, bool accumulate) const = 0;
  virtual void step_forward(const StepForward& step) const = 0;
  virtual void step_backward(const StepBackward& step) const = 0;
};

using OptionalTensor = std::optional<at::Tensor>;

// (y, h_n, c_n, gates, c, h_tilde); the last three are for the backward:
//   gates   scalar [T,B,4H]  activated i, f, g, o
//   c       acc [T+1,B,H]    c_0 in front of the c_t in time order; behind them where reverse
//   h_tilde scalar [T,B,H]   the recurrent GEMM's input at t; [0] where that is just h_0 and y (no [B,H] mask_h, no
//                            lengths)
using ForwardResult = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
// (dx, dh_0, dc_0, dW_ih, dW_hh, db); [0] in place of what was not asked for; db serves both biases
using BackwardResult = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

ForwardResult lstm_layer_forward(const Backend& backend, const at::Tensor& x, const at::Tensor& h_0,
                                 const at::Tensor& c_0, const at::Tensor& W_ih, const at::Tensor& W_hh,
                                 const OptionalTensor& b_ih, const OptionalTensor& b_hh, const OptionalTensor& mask_x,
                                 const OptionalTensor& mask_h, const OptionalTensor& mask_g,
                                 const OptionalTensor& lengths, bool reverse);

BackwardResult lstm_layer_backward(const Backend& backend, const at::Tensor& x, const at::Tensor& h_0,
                                   const at::Tensor& W_ih, const at::Tensor& W_hh, const OptionalTensor& mask_x,
                                   const OptionalTensor& mask_h, const OptionalTensor& mask_g,
                                   const OptionalTensor& lengths, bool reverse, const at::Tensor& y,
                                   const at::Tensor& gates, const at::Tensor& c, const at::Tensor& h_tilde,
                                   const OptionalTensor& dy, const OptionalTensor& dh_n, const OptionalTensor& dc_n,
                                   bool need_dx, bool need_dW);

// One of the two above as an op's kernel, on the backend that make_backend(x) gives; the other arguments pass through.
template <auto layer, auto make_backend>
struct OpKernel;
template <class Result, class... Args, Result (*layer)(const Backend&, const at::Tensor&, Args...), auto make_backend>
struct OpKernel<layer, make_backend> {
  static Result call(const at::Tensor& x, Args... args) { return layer(make_backend(x), x, args...); }
};

}  // namespace rnndrop
