// One LSTM layer in one direction: the op's schemas, what a backend provides, and the time loop that every backend
// shares.
//
// Flow: op -> lstm_layer_forward/_backward (checks) -> the Backend's engine for whole layers, or the time loop over its
// GEMM and pointwise step -> lstm_cell.h.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <optional>
#include <tuple>

#include "lstm_sequence.h"

namespace rnndrop {

inline constexpr const char* kLayerSchema =
    "lstm_layer(Tensor x, Tensor h_0, Tensor c_0, Tensor W_ih, Tensor W_hh, Tensor? b_ih, Tensor? b_hh, Tensor? W_hr, "
    "Tensor? mask_x, Tensor? mask_h, Tensor? mask_g, Tensor? mask_c, Tensor? zone_c, Tensor? zone_h, "
    "Tensor? lengths, bool reverse, bool save) "
    "-> (Tensor y, Tensor h_n, Tensor c_n, Tensor gates, Tensor c, Tensor h_full)";
inline constexpr const char* kLayerBackwardSchema =
    "lstm_layer_backward(Tensor x, Tensor h_0, Tensor c_0, Tensor W_ih, Tensor W_hh, Tensor? b_ih, Tensor? b_hh, "
    "Tensor? W_hr, Tensor? mask_x, Tensor? mask_h, Tensor? mask_g, Tensor? mask_c, Tensor? zone_c, Tensor? zone_h, "
    "Tensor? lengths, bool reverse, Tensor y, Tensor gates, Tensor c, Tensor h_full, Tensor? dy, Tensor? dh_n, "
    "Tensor? dc_n, bool need_dx, bool need_dW) "
    "-> (Tensor dx, Tensor dh_0, Tensor dc_0, Tensor dW_ih, Tensor dW_hh, Tensor db, Tensor dW_hr)";

class Backend {
 public:
  virtual ~Backend() = default;
  // out[M,N] = a[M,K] b[K,N], or out += with accumulate. out is row-major; each of a and b is row-major or the
  // transpose of it; rows may lie further apart than they are long. Sizes may be 0.
  virtual void gemm(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, bool accumulate) const = 0;
  // How many steps of B samples the GEMMs that need no recurrence (those with x, W_ih and all dW) take at once.
  virtual int64_t steps_per_chunk(int64_t T, int64_t B, at::ScalarType dtype) const = 0;
  virtual void step_forward(const StepForward& step) const = 0;
  virtual void step_backward(const StepBackward& step) const = 0;
  // The whole sequence in one call; false where this backend has no engine for it, and nothing was done.
  virtual bool layer_forward(const LayerForward& /*layer*/) const { return false; }
  virtual bool layer_backward(const LayerBackward& /*layer*/) const { return false; }
  // The same for the recurrence alone. from_x of any steps is there only after project(steps), which may be called on
  // all of them at once or on some ahead of others. What the engine needs to allocate, it does where x lies.
  using Project = std::function<void(const Steps&)>;
  virtual bool recurrence_forward(const RecurrenceForward& /*r*/, const at::Tensor& /*x*/,
                                  const Project& /*project*/) const {
    return false;
  }
  virtual bool recurrence_backward(const RecurrenceBackward& /*r*/, const at::Tensor& /*x*/) const { return false; }
};

using OptionalTensor = std::optional<at::Tensor>;

// What both ops take and check alike. Sizes: T, B, I, H, and P, the width of h: that of the projection W_hr, else H.
struct LayerInputs {
  const at::Tensor &x, &h_0, &c_0;                 // [T,B,I], [B,P], [B,H]
  const at::Tensor &W_ih, &W_hh;                   // [4H,I], [4H,P]
  const OptionalTensor &b_ih, &b_hh, &W_hr;        // [4H], [4H], [P,H]
  const OptionalTensor &mask_x, &mask_h;           // [I] or [B,I], and [P] or [B,P]; one a gate: [4,1 or B,I or P]
  const OptionalTensor &mask_g, &mask_c, &zone_c;  // [H], [B,H], and but for mask_c [T,B,H]
  const OptionalTensor& zone_h;                    // [P], [B,P] or [T,B,P]
  const OptionalTensor& lengths;                   // int64 [B]
};

// (y, h_n, c_n, gates, c, h_full); the last three are for the backward, [0] without `save`:
//   gates   scalar [T,B,4H]  activated i, f, g, o; i and g of a unit that a mask_g [H] drops may be anything finite
//   c       acc [T+1,B,H]    c_0 in front of the c_t in time order; behind them where reverse
//   h_full  scalar [T,B,H]   o * tanh(c), what W_hr projects to y; [0] also without a projection
using ForwardResult = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
// (dx, dh_0, dc_0, dW_ih, dW_hh, db, dW_hr); [0] in place of what was not asked for; db serves both biases
using BackwardResult = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

ForwardResult lstm_layer_forward(const Backend& backend, const at::Tensor& x, const at::Tensor& h_0,
                                 const at::Tensor& c_0, const at::Tensor& W_ih, const at::Tensor& W_hh,
                                 const OptionalTensor& b_ih, const OptionalTensor& b_hh, const OptionalTensor& W_hr,
                                 const OptionalTensor& mask_x, const OptionalTensor& mask_h,
                                 const OptionalTensor& mask_g, const OptionalTensor& mask_c,
                                 const OptionalTensor& zone_c, const OptionalTensor& zone_h,
                                 const OptionalTensor& lengths, bool reverse, bool save);

// c_0, b_ih and b_hh enter no formula here: they are there for the double backward, which starts from all inputs.
BackwardResult lstm_layer_backward(const Backend& backend, const at::Tensor& x, const at::Tensor& h_0,
                                   const at::Tensor& c_0, const at::Tensor& W_ih, const at::Tensor& W_hh,
                                   const OptionalTensor& b_ih, const OptionalTensor& b_hh, const OptionalTensor& W_hr,
                                   const OptionalTensor& mask_x, const OptionalTensor& mask_h,
                                   const OptionalTensor& mask_g, const OptionalTensor& mask_c,
                                   const OptionalTensor& zone_c, const OptionalTensor& zone_h,
                                   const OptionalTensor& lengths, bool reverse, const at::Tensor& y,
                                   const at::Tensor& gates, const at::Tensor& c, const at::Tensor& h_full,
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
