// What a step, a layer and a recurrence are: plain sizes and pointers, all that crosses into kernels and engines.
//
// An LSTM step is GEMM(x) + GEMM(h) + one pass over [B,H]. Three contracts hand over more or less of it:
//   Step...        the pass alone, behind a library's GEMMs: the step kernels
//   Recurrence...  all steps, but none of the GEMMs around them: CUDA's persistent kernels
//   Layer...       everything, in one call: the CPU's engine
// Whoever fills one has checked the shapes, and its arrays are dense and row-major. No torch header here: kernel files
// include this and are compiled by nvcc, and by g++ for the emulation.
//
// "scalar" is the dtype of the tensors, "acc" the type computed in: float64 for float64, else float32. Gate order
// i, f, g, o. A pointer is null where its argument is absent. Every member has a default, so that one added later is
// absent until somebody sets it.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace rnndrop {

// To add one: the compiler names every switch that lacks it, and cpu/ and cuda/ have a file of kernels for each.
enum class Dtype { float64, float32, bfloat16, float16 };
constexpr const char* kDtypeNames[] = {"float64", "float32", "bfloat16", "float16"};
inline const char* name_of(Dtype dtype) { return kDtypeNames[static_cast<int>(dtype)]; }

enum Gate : int64_t { kInput, kForget, kCandidate, kOutput, kGates };  // PyTorch's order of rows

// ---------------------------------------------------------------- noise and time

// Noise on [B,H] at one step: scalar, row b at data + b * stride, stride 0 where the batch shares it.
struct RowNoise {
  const void* data = nullptr;
  int64_t stride = 0;
};

// lstm_cell.h says what each does. To add one: CellNoise there; StepNoise and LayerNoise here; then what fills them
// (layer_inputs.*, cuda/stepwise.cpp, cuda/backend.cpp and the CPU's engine) and what reads them (load_noise and
// cell_noise in the kernels).
struct StepNoise {
  RowNoise mask_g, mask_c, zone_c, zone_h;
  bool on_state() const { return mask_c.data || zone_c.data || zone_h.data; }
};

// Noise on [B,H] at every step of a sequence: scalar, or null.
struct SequenceNoise {
  const void* data = nullptr;
  int64_t step_bytes = 0;  // from one step to the next: 0 where one serves all
  int64_t row_stride = 0;  // elements from one sample to the next: 0 where the batch shares it
  HOST_DEVICE RowNoise at_step(int64_t t) const {
    return {data ? static_cast<const char*>(data) + t * step_bytes : nullptr, row_stride};
  }
};

struct LayerNoise {
  SequenceNoise mask_g, mask_c, zone_c, zone_h;
  HOST_DEVICE StepNoise at_step(int64_t t) const {
    return {mask_g.at_step(t), mask_c.at_step(t), zone_c.at_step(t), zone_h.at_step(t)};
  }
};

// A mask on an input of the GEMMs, x or h, of K features, the same at every step.
struct InputMask {
  const void* data = nullptr;  // scalar [K]; [B,K] where per_sample; [4,1,K] or [4,B,K] where per_gate; or null
  bool per_sample = false;
  bool per_gate = false;
  // How many x~ or h~ a sample has: one for each gate where the mask is both a gate's and a sample's own.
  int64_t inputs_of_sample() const { return data && per_sample && per_gate ? kGates : 1; }
};

// The direction of time: which step comes before and after another, and where step t's state lies in c[T+1,B,H].
struct TimeOrder {
  int64_t T = 0;
  bool reverse = false;
  HOST_DEVICE int64_t first() const { return reverse ? T - 1 : 0; }
  HOST_DEVICE int64_t last() const { return reverse ? 0 : T - 1; }
  HOST_DEVICE int64_t next(int64_t t) const { return reverse ? t - 1 : t + 1; }
  HOST_DEVICE int64_t before(int64_t t) const { return reverse ? t + 1 : t - 1; }
  HOST_DEVICE int64_t slot(int64_t t) const { return reverse ? t : t + 1; }
  HOST_DEVICE int64_t slot_before(int64_t t) const { return reverse ? t + 1 : t; }
};

// ---------------------------------------------------------------- one step, its pointwise half
// With a projection "h" below is o * tanh(c), which a GEMM projects afterwards: then h_state, h_tilde_next, mask_h,
// zone_h, dh_tilde_next and dh_carry, which belong to the projected h, are null, and dy is dL/d(o * tanh(c)).

struct StepForward {
  Dtype dtype = Dtype::float64;
  int64_t B = 0, H = 0;
  int64_t t = 0;  // this step's time, compared with lengths

  const void* b_ih = nullptr;  // scalar [4H] or null
  const void* b_hh = nullptr;  // scalar [4H] or null
  StepNoise noise;
  const int64_t* lengths = nullptr;  // [B] or null; where t >= lengths[b] the state is carried unchanged and y is 0

  // h~ of the next step, mask_h * h: one for all gates, or one for each (n_h_tilde = 4).
  int64_t n_h_tilde = 1;
  const void* mask_h = nullptr;  // scalar [n_h_tilde,B,H] or null
  void* h_tilde_next = nullptr;  // scalar [n_h_tilde,B,H] out; null where that is y itself

  void* gates = nullptr;         // scalar [B,4H]; in: W_ih x~ + W_hh h~, out: the activated i, f, g, o (0 past the end)
  const void* c_prev = nullptr;  // acc [B,H] c_{t-1}
  void* c = nullptr;             // acc [B,H] out: c_t
  void* y = nullptr;             // scalar [B,H] out: h_t, or 0 past the end
  void* h_state = nullptr;  // scalar [B,H] in/out, null without lengths and zone_h: the h handed on; from h_0 to h_n
};

struct StepBackward {
  Dtype dtype = Dtype::float64;
  int64_t B = 0, H = 0;
  int64_t t = 0;

  StepNoise noise;
  const int64_t* lengths = nullptr;

  int64_t n_h_tilde = 1;                // as in StepForward
  const void* mask_h = nullptr;         // as in StepForward
  const void* dh_tilde_next = nullptr;  // scalar [n_h_tilde,B,H] or null: dL/dh~ of the step after this, from its GEMM

  const void* gates = nullptr;   // scalar [B,4H] activated i, f, g, o
  const void* c_prev = nullptr;  // acc [B,H] c_{t-1}
  const void* c = nullptr;       // acc [B,H] c_t
  const void* dy = nullptr;      // scalar [B,H] or null: dL/dy_t
  void* dh_carry = nullptr;      // acc [B,H] in/out or null: gradient on h_t that no GEMM brings (dL/dh_n, and what
                                 // zoneout and steps past the end hand on); out: the same for h_{t-1}
  void* dc = nullptr;            // acc [B,H] in: dL/dc_t, out: dL/dc_{t-1}
  void* da = nullptr;            // scalar [B,4H] out: dL/d(pre-activations), 0 past the end
};

// ---------------------------------------------------------------- the recurrence alone
// A mask on h for each gate is folded into the columns of W_hh where the batch shares it, and has no contract here
// where each sample has its own.

struct Recurrence {
  Dtype dtype = Dtype::float64;
  int64_t B = 0, H = 0;
  TimeOrder order;             // of the forward, in the backward too
  const void* W_hh = nullptr;  // scalar [4H,H]
  RowNoise mask_h;             // on h, at every step
  LayerNoise noise;
  const int64_t* lengths = nullptr;  // [B] or null
};

struct RecurrenceForward : Recurrence {
  const void* b_ih = nullptr;    // scalar [4H] or null
  const void* b_hh = nullptr;    // scalar [4H] or null
  const void* h_0 = nullptr;     // scalar [B,H], null: zeros. Not h_n, which some blocks write before others read this
  const void* c_0 = nullptr;     // scalar [B,H], null: zeros. The kernel puts it into its slot of c
  const void* from_x = nullptr;  // scalar [T,B,4H]: W_ih x~; may be gates
  void* gates = nullptr;         // scalar [T,B,4H] out, or null where no backward will ask for them
  void* c = nullptr;             // acc, as in LayerForward
  void* y = nullptr;             // scalar [T,B,H] out
  void* h_n = nullptr;           // scalar [B,H] out
  void* c_n = nullptr;           // scalar [B,H] out
  HOST_DEVICE int64_t c_slot(int64_t slot) const { return gates ? slot : slot % 2; }
};

struct RecurrenceBackward : Recurrence {
  const void* gates = nullptr;  // scalar [T,B,4H], as the forward left them
  const void* c = nullptr;      // acc [T+1,B,H], as the forward left it
  const void* dy = nullptr;     // scalar [T,B,H] or null
  int64_t dy_stride = 0;  // elements from one sample of dy to the next: more than H where it is a part of wider rows
  const void* dh_n = nullptr;  // scalar [B,H] or null
  const void* dc_n = nullptr;  // scalar [B,H] or null
  void* dh_0 = nullptr;        // scalar [B,H] out, or null
  void* dc_0 = nullptr;        // scalar [B,H] out, or null
  void* da = nullptr;          // scalar [T,B,4H] out
};

// ---------------------------------------------------------------- a whole layer

struct LayerProblem {
  Dtype dtype = Dtype::float64;
  int64_t T = 0, B = 0, I = 0, H = 0;
  int64_t P = 0;  // the width of h: that of the projection W_hr, else H
  TimeOrder order;
  const void* x = nullptr;     // scalar [T,B,I]
  const void* h_0 = nullptr;   // scalar [B,P]
  const void* W_ih = nullptr;  // scalar [4H,I]
  const void* W_hh = nullptr;  // scalar [4H,P]
  const void* W_hr = nullptr;  // scalar [P,H] or null
  InputMask mask_x, mask_h;
  LayerNoise noise;
  const int64_t* lengths = nullptr;  // [B] or null
};

struct LayerForward : LayerProblem {
  const void* b_ih = nullptr;  // scalar [4H] or null
  const void* b_hh = nullptr;  // scalar [4H] or null
  void* y = nullptr;           // scalar [T,B,P] out
  void* h_full = nullptr;      // scalar [T,B,H] out: o * tanh(c), [B,H] without gates; null without W_hr
  void* h_n = nullptr;         // scalar [B,P] in: h_0, out: h_n; null without lengths and zone_h
  void* gates = nullptr;       // scalar [T,B,4H] out; null where no backward will ask for them
  void* c = nullptr;           // acc [T+1,B,H] in: c_0 in its slot, out: all others. Without gates [2,B,H]: see c_slot
  // Without gates only the last two states are kept, in turn.
  int64_t c_slot(int64_t slot) const { return gates ? slot : slot % 2; }
};

struct LayerBackward : LayerProblem {
  const void* y = nullptr;       // scalar [T,B,P], as the forward left it
  const void* h_full = nullptr;  // scalar [T,B,H], as the forward left it; null without W_hr
  const void* gates = nullptr;   // scalar [T,B,4H], as the forward left them
  const void* c = nullptr;       // acc [T+1,B,H], as the forward left it
  const void* dy = nullptr;      // scalar [T,B,P] or null
  void* dh_carry = nullptr;      // acc [B,P] in: dL/dh_n, out: see StepBackward
  void* dc = nullptr;            // acc [B,H] in: dL/dc_n, out: dL/dc_0
  void* dh_tilde = nullptr;      // scalar [B,P] out: dL/dh~ of the first step; [4,B,P] where mask_h is [4,B,P]
  bool need_dx = false, need_dW = false;
  void* dx = nullptr;     // scalar [T,B,I] out, where need_dx
  void* dW_ih = nullptr;  // scalar [4H,I] out, where need_dW
  void* dW_hh = nullptr;  // scalar [4H,P] out, where need_dW
  void* dW_hr = nullptr;  // scalar [P,H] out, where need_dW and W_hr
  void* db = nullptr;     // acc [4H] in: 0, out, where need_dW
};

}  // namespace rnndrop
