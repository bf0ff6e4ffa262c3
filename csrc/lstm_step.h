// The pointwise half of one time step: what a backend's kernel gets after the step's GEMM.
//
// An LSTM step is GEMM(x) + GEMM(h) + one pass over [B, H]. The GEMMs are the backend's library's; the pass is
// ours, and these structures are all that crosses from the time loop (lstm_layer.cpp) to the kernels. No torch
// header here: CUDA kernel files include it and are compiled by nvcc, and by g++ for the emulation.
//
// "scalar" is the dtype of the tensors, "acc" the type computed in: float64 for float64, else float32.
// All arrays are dense and row-major. Gate order i, f, g, o. A pointer is null where its argument is absent.
//
// With a projection "h" below is o * tanh(c), which a GEMM projects afterwards: then h_state, h_tilde_next, mask_h,
// zone_h, dh_tilde_next and dh_carry, which belong to the projected h, are null, and dy is dL/d(o * tanh(c)).
#pragma once

#include <cstdint>

namespace rnndrop {

enum class Dtype { float64, float32, bfloat16, float16 };

enum Gate : int64_t { kInput, kForget, kCandidate, kOutput, kGates };  // PyTorch's order of rows

// Noise on [B,H] at one step: scalar, row b at data + b * stride, stride 0 where the batch shares it.
struct RowNoise {
  const void* data;
  int64_t stride;
};

// lstm_cell.h says what each does.
struct StepNoise {
  RowNoise mask_g, mask_c, zone_c, zone_h;
  bool on_state() const { return mask_c.data || zone_c.data || zone_h.data; }
};

struct StepForward {
  Dtype dtype;
  int64_t B, H;
  int64_t t;  // this step's time, compared with lengths

  const void* b_ih;  // scalar [4H] or null
  const void* b_hh;  // scalar [4H] or null
  StepNoise noise;
  const int64_t* lengths;  // [B] or null; where t >= lengths[b] the state is carried unchanged and y is 0

  // h~ of the next step, mask_h * h: one for all gates, or one a gate (n_h_tilde = 4).
  int64_t n_h_tilde;
  const void* mask_h;      // scalar [n_h_tilde,B,H] or null
  void* h_tilde_next;      // scalar, n_h_tilde times [B,H] out; null where that is y itself
  int64_t h_tilde_stride;  // elements from one gate's h~ to the next one's

  void* gates;         // scalar [B,4H]; in: W_ih x~ + W_hh h~, out: the activated i, f, g, o (0 past the end)
  const void* c_prev;  // acc [B,H] c_{t-1}
  void* c;             // acc [B,H] out: c_t
  void* y;             // scalar [B,H] out: h_t, or 0 past the end
  void* h_state;       // scalar [B,H] in/out, null without lengths and zone_h: the h handed on; from h_0 to h_n
};

struct StepBackward {
  Dtype dtype;
  int64_t B, H;
  int64_t t;

  StepNoise noise;
  const int64_t* lengths;

  int64_t n_h_tilde;          // as in StepForward
  const void* mask_h;         // as in StepForward
  const void* dh_tilde_next;  // scalar [n_h_tilde,B,H] or null: dL/dh~ of the step after this, from its GEMM with W_hh

  const void* gates;   // scalar [B,4H] activated i, f, g, o
  const void* c_prev;  // acc [B,H] c_{t-1}
  const void* c;       // acc [B,H] c_t
  const void* dy;      // scalar [B,H] or null: dL/dy_t
  void* dh_carry;      // acc [B,H] in/out or null: gradient on h_t that no GEMM brings (dL/dh_n, and what zoneout and
                       // steps past the end hand on); out: the same for h_{t-1}
  void* dc;            // acc [B,H] in: dL/dc_t, out: dL/dc_{t-1}
  void* da;            // scalar [B,4H] out: dL/d(pre-activations), 0 past the end
};

}  // namespace rnndrop
