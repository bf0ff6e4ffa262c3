// A whole layer's forward or backward as an engine gets it: plain sizes and pointers, all checked, dense and row-major.
//
// An engine runs the sequence in one call: input GEMM, recurrence and, in the backward, the gradients of the weights.
// Where there is none for a call, lstm_layer.cpp goes step by step. "scalar" and "acc" are those of lstm_step.h; no
// torch header here either.
#pragma once

#include "host_device.h"
#include "lstm_step.h"

namespace rnndrop {

// A mask on an input of the GEMMs, x or h, of K features, kept for all steps: scalar, or null.
struct InputMask {
  const void* data;
  bool per_sample;  // [B,K], else [K]
  bool per_gate;    // one for each gate: [4,B,K] or [4,1,K]
  // x~ or h~ that each sample has: one a gate where the mask is a gate's and a sample's own.
  int64_t inputs_of_sample() const { return data && per_sample && per_gate ? kGates : 1; }
};

// Noise on [B,H] at every step of a sequence, or null.
struct SequenceNoise {
  const void* data;
  int64_t step_bytes;  // from one step to the next: 0 where one serves all
  int64_t row_stride;  // elements from one sample to the next: 0 where the batch shares it
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

// Where the state of step t lies in c[T+1,B,H], and which step comes before and after it in the direction of time.
struct TimeOrder {
  int64_t T;
  bool reverse;
  HOST_DEVICE int64_t first() const { return reverse ? T - 1 : 0; }
  HOST_DEVICE int64_t last() const { return reverse ? 0 : T - 1; }
  HOST_DEVICE int64_t next(int64_t t) const { return reverse ? t - 1 : t + 1; }
  HOST_DEVICE int64_t before(int64_t t) const { return reverse ? t + 1 : t - 1; }
  HOST_DEVICE int64_t slot(int64_t t) const { return reverse ? t : t + 1; }
  HOST_DEVICE int64_t slot_before(int64_t t) const { return reverse ? t + 1 : t; }
};

struct LayerProblem {
  Dtype dtype;
  int64_t T, B, I, H;
  TimeOrder order;
  const void* x;     // scalar [T,B,I]
  const void* h_0;   // scalar [B,H]
  const void* W_ih;  // scalar [4H,I]
  const void* W_hh;  // scalar [4H,H]
  InputMask mask_x, mask_h;
  LayerNoise noise;
  const int64_t* lengths;  // [B] or null
};

struct LayerForward : LayerProblem {
  const void *b_ih, *b_hh;  // scalar [4H] or null
  void* y;                  // scalar [T,B,H] out
  void* h_n;                // scalar [B,H] in: h_0, out: h_n
  void* gates;              // scalar [T,B,4H] out; null where no backward will ask for them
  void* c;                  // acc [T+1,B,H] in: c_0 in its slot, out: all others. Without gates [2,B,H]: see c_slot
  // Without gates only the last two states are kept, in turn.
  int64_t c_slot(int64_t slot) const { return gates ? slot : slot % 2; }
};

struct LayerBackward : LayerProblem {
  const void* y;      // as the forward left them
  const void* gates;  // scalar [T,B,4H]
  const void* c;      // acc [T+1,B,H]
  const void* dy;     // scalar [T,B,H] or null
  void* dh_carry;     // acc [B,H] in: dL/dh_n, out: see StepBackward
  void* dc;           // acc [B,H] in: dL/dc_n, out: dL/dc_0
  void* dh_tilde;     // scalar [B,H] out, [4,B,H] where mask_h is a gate's and a sample's own: dL/dh~ of the first step
  bool need_dx, need_dW;
  void* dx;             // scalar [T,B,I] out, where need_dx
  void *dW_ih, *dW_hh;  // scalar [4H,I], [4H,H] out, where need_dW
  void* db;             // acc [4H] in: 0, out, where need_dW
};

// ---------------------------------------------------------------- the recurrence alone
// What an engine gets that runs all steps but none of the GEMMs around them. W_hh has the mask on h folded into its
// columns where the batch shares it; mask_h is there where each sample has its own.

// Neighbouring steps, as a range of the time axis.
struct Steps {
  int64_t begin, n;
  bool contains(int64_t t) const { return begin <= t && t < begin + n; }
  // In an order of time: the first of them.
  HOST_DEVICE int64_t first(const TimeOrder& order) const { return order.reverse ? begin + n - 1 : begin; }
};

struct Recurrence {
  Dtype dtype;
  int64_t B, H;
  TimeOrder order;     // of the forward, in the backward too
  Steps steps;         // those to run
  const void* W_hh;    // scalar [4H,H]
  const void* mask_h;  // scalar [B,H] or null
  LayerNoise noise;
  const int64_t* lengths;  // [B] or null
};

struct RecurrenceForward : Recurrence {
  const void *b_ih, *b_hh;  // scalar [4H] or null
  const void*
      h_begin;  // scalar [B,H]: h before the first of the steps; not h_n, which some may write before others have read
  const void* from_x;  // scalar [T,B,4H]: W_ih x~; may be gates
  void* gates;         // scalar [T,B,4H] out, or null where no backward will ask for them
  void* c;             // acc, as in LayerForward
  void* y;             // scalar [T,B,H] out
  void* h_n;           // scalar [B,H] out: h after the last of the steps, or null
  HOST_DEVICE int64_t c_slot(int64_t slot) const { return gates ? slot : slot % 2; }
};

struct RecurrenceBackward : Recurrence {
  const void* gates;  // as the forward left them
  const void* c;
  const void* dy;  // scalar [T,B,H] or null
  void* dh_carry;  // acc [B,H] in: dL/dh_n, out: see StepBackward
  void* dc;        // acc [B,H] in: dL/dc_n, out: dL/dc_0
  void* dh_tilde;  // scalar [B,H] out: dL/dh~ of the first step
  void* da;        // scalar [T,B,4H] out
};

}  // namespace rnndrop
