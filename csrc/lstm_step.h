// The pointwise half of one time step: what a backend's kernel gets after the step's GEMM.
//
// An LSTM step is GEMM(x) + GEMM(h) + one pass over [B, H]. The GEMMs are the backend's library's; the pass is
// ours, and these two structs are all that crosses from the time loop (lstm_layer.cpp) to the kernels. No torch
// header here: CUDA kernel files include it and are compiled by nvcc, and by g++ for the emulation.
//
// "scalar" is the dtype of the tensors, "acc" the type computed in: float64 for float64, else float32.
// All arrays are dense and row-major. Gate order i, f, g, o. A pointer is null where its argument is absent.
//
// With a projection "h" below is o * tanh(c), which a GEMM projects afterwards: then h_state, h_tilde_next, mask_h,
// dh_tilde_next and dh_carry, which belong to the projected h, are null, and dy is dL/d(o * tanh(c)).
#pragma once

#include <cstdint>

namespace rnndrop {

enum class Dtype { float64, float32, bfloat16, float16 };

struct StepForward {
  Dtype dtype;
  int64_t B, H;
  int64_t t;  // this step's time, compared with lengths

  const void* b_ih;        // scalar [4H] or null
  const void* b_hh;        // scalar [4H] or null
  const void* mask_h;      // scalar [B,H] or null; multiplies h_t on its way into h_tilde_next
  const void* mask_g;      // scalar, this step's; row b at mask_g + b * mask_g_stride, or null
  int64_t mask_g_stride;   // H for one mask a sample, 0 for one shared by the batch
  const int64_t* lengths;  // [B] or null; where t >= lengths[b] the state is carried unchanged and y is 0

  void* gates;         // scalar [B,4H]; in: W_ih x~ + W_hh h~, out: the activated i, f, g, o (0 past the end)
  const void* c_prev;  // acc [B,H] c_{t-1}
  void* c;             // acc [B,H] out: c_t
  void* y;             // scalar [B,H] out: h_t, or 0 past the end
  void* h_state;       // scalar [B,H] in/out, null without lengths: the carried h; starts as h_0, ends as h_n
  void* h_tilde_next;  // scalar [B,H] out: h~ of the next step, mask_h * h; null where that is y itself
};

struct StepBackward {
  Dtype dtype;
  int64_t B, H;
  int64_t t;

  const void* mask_h;  // as in StepForward
  const void* mask_g;
  int64_t mask_g_stride;
  const int64_t* lengths;

  const void* gates;          // scalar [B,4H] activated i, f, g, o
  const void* c_prev;         // acc [B,H] c_{t-1}
  const void* c;              // acc [B,H] c_t
  const void* dy;             // scalar [B,H] or null: dL/dy_t
  const void* dh_tilde_next;  // scalar [B,H] or null: dL/dh~ of the step after this, from its GEMM with W_hh
  void* dh_carry;             // acc [B,H] in/out or null: gradient on h_t that no GEMM brings (dL/dh_n, and what steps
                              // past the end hand on); out: 0 where this step took it, else what it hands on
  void* dc;                   // acc [B,H] in: dL/dc_t, out: dL/dc_{t-1}
  void* da;                   // scalar [B,4H] out: dL/d(pre-activations), 0 past the end
};

}  // namespace rnndrop
