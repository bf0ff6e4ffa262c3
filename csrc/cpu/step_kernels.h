// The pointwise step on the CPU, on a part of [B,H], in the widest vectors this CPU has.
#pragma once

#include "params.h"

namespace rnndrop::cpu {

struct Part {
  int64_t row_begin, row_end;    // of B
  int64_t unit_begin, unit_end;  // of H
};

// What the GEMMs left beside step.gates instead of in it: acc, the part's first row and unit first; or null. The step
// may overwrite it.
struct PreActivations {
  void* data = nullptr;
  int64_t row_stride = 0, gate_stride = 0;  // in elements
  // Whether W_ih x~ and the biases are in it too, beside W_hh h~: then step.gates is only written, if it is there.
  bool complete = false;
  // W_ih x~, acc [B,4H], where it is neither there nor in step.gates; these are then only written, if they are there.
  const void* from_x = nullptr;
};

// What the GEMMs around the backward step have in acc, in place of the step's own; or null.
struct AccGradients {
  const void* dh_tilde_next = nullptr;
  void* da = nullptr;
};

// The kernels take as many units at once: a part that is no multiple of it ends in part of a vector.
inline constexpr int64_t kVectorUnits = 16;

void step_forward(const StepForward& step, const Part& part, const PreActivations& pre);
void step_backward(const StepBackward& step, const Part& part, const AccGradients& gradients = {});

}  // namespace rnndrop::cpu
