// One call of an op as a backend gets it: inputs that are checked, and outputs that are allocated and that it fills.
#pragma once

#include <tuple>
#include <vector>

#include "layer_inputs.h"

namespace rnndrop {

// (y, h_n, c_n, gates, c, h_full); the last three are for the backward, [0] without `save`:
//   gates   scalar [T,B,4H]  activated i, f, g, o; i and g of a unit that a mask_g [H] drops may be anything finite
//   c       acc [T+1,B,H]    c_0 in front of the c_t in time order; behind them where reverse
//   h_full  scalar [T,B,H]   o * tanh(c), what W_hr projects to y; [0] also without a projection
using ForwardResult = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
std::vector<at::Tensor> tensors_of(const ForwardResult& result);
// (dx, dh_0, dc_0, dW_ih, dW_hh, db_ih, db_hh, dW_hr); [0] in place of what was not asked for or has no input
using BackwardResult =
    std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

// out[n] = in, each of its own type: for a backend whose tensors the host may read and write. ATen takes longer to find
// out how to copy than a small layer for a step.
using HostCopy = void (*)(void* out, at::ScalarType out_type, const void* in, at::ScalarType in_type, int64_t n);

struct ForwardCall {
  ForwardCall(const LayerInputs& given, bool reverse, bool save);
  // For a backend that does not read h_0 and c_0 itself: c_0, or zeros, go to their slot of c, and h_n begins as h_0.
  void put_initial_state();
  ForwardResult result() const;
  // The state in slot s of time. Without `save` only the last two are kept, in turn.
  int64_t c_index(int64_t slot) const { return save ? slot : slot % 2; }
  at::Tensor c_at(int64_t slot) const { return c.select(0, c_index(slot)); }

  CheckedInputs in;
  bool save;                     // whether a backward may follow
  HostCopy host_copy = nullptr;  // a backend's, where it has one
  at::Tensor y;                  // scalar [T,B,P] out
  at::Tensor h_full;  // scalar [T,B,H] out, or [1,B,H], the last step's, without save; undefined without W_hr
  at::Tensor gates;   // scalar [T,B,4H] out; undefined without save
  at::Tensor c;       // acc [T+1,B,H], or [2,B,H] without save; out: all slots, but for c_0's where it was put there
  at::Tensor h_n;     // scalar [B,P] out; undefined: it is y's last. As put_initial_state left it, or a backend's own
  at::Tensor c_n;     // scalar [B,H] out; undefined: it is c's last. A backend's own
};

// What the backward is given beside the layer's inputs, unchecked: the forward's results and their gradients.
struct BackwardInputs {
  const at::Tensor &y, &gates, &c, &h_full;
  const OptionalTensor &dy, &dh_n, &dc_n;  // as y, h_n, c_n
  bool need_dx, need_dW;
};

struct BackwardCall {
  BackwardCall(const LayerInputs& given, bool reverse, const BackwardInputs& saved);
  // For a backend that does not make dh_0 and dc_0 of dh_n and dc_n itself: dh_carry, dc, dh_tilde and an acc db.
  void make_accumulators();
  bool need_db() const { return need_dW && (in.b_ih || in.b_hh); }
  BackwardResult result() const;
  // From the accumulators; [0] without h_0.
  at::Tensor gradient_of_h_0() const;

  CheckedInputs in;
  bool need_dx, need_dW;
  HostCopy host_copy = nullptr;  // a backend's, where it has one
  at::Tensor y, gates, c;        // as the forward left them, dense
  at::Tensor h_full;             // the same, with any strides; undefined without W_hr
  OptionalTensor dy;             // scalar [T,B,P], with any strides; dense beside the accumulators
  OptionalTensor dh_n;           // scalar [B,P], dense
  OptionalTensor dc_n;           // scalar [B,H], dense
  at::Tensor dh_0;      // scalar [B,P] out, [0] without h_0; undefined: it is made of the accumulators. A backend's own
  at::Tensor dc_0;      // scalar [B,H] out, [0] without c_0; likewise
  at::Tensor dh_carry;  // acc [B,P] in: dL/dh_n, out: what reaches h_0 past every GEMM, where lengths or zone_h
  at::Tensor dc;        // acc [B,H] in: dL/dc_n, out: dL/dc_0
  at::Tensor dh_tilde;  // scalar [B,P] out, [4,B,P] with a mask_h [4,B,P]: dL/dh~ of the first step
  at::Tensor dx;        // scalar [T,B,I] out, where need_dx; else [0]
  at::Tensor dW_ih;     // scalar [4H,I] out, where need_dW; else [0]; so are all below
  at::Tensor dW_hh;     // scalar [4H,P] out
  at::Tensor dW_hr;     // scalar [P,H] out; [0] also without W_hr
  at::Tensor db;        // acc [4H] out, of either bias; scalar where it is a backend's own
  at::Tensor db_hh;     // scalar [4H] out, where there are two biases; undefined: a copy of db. A backend's own
};

}  // namespace rnndrop
