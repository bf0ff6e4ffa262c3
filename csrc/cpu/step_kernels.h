// The pointwise step on the CPU, on a part of [B,H], in the widest vectors this CPU has.
#pragma once

#include "params.h"

namespace rnndrop::cpu {

struct Part {
  int64_t row_begin, row_end;    // of B
  int64_t unit_begin, unit_end;  // of H
};

// What the recurrent GEMM left beside step.gates instead of in it: acc, the part's first row and unit first; or null.
struct RecurrentPart {
  const void* data = nullptr;
  int64_t row_stride = 0, gate_stride = 0;  // in elements
  // W_ih x~, acc [B,4H], where it is not in step.gates either; these are then only written, or null.
  const void* from_x = nullptr;
};

void step_forward(const StepForward& step, const Part& part, const RecurrentPart& recurrent);
// What the GEMMs around the backward step have in acc, in place of the step's own; or null.
struct AccGradients {
  const void* dh_tilde_next = nullptr;
  void* da = nullptr;
};

void step_backward(const StepBackward& step, const Part& part, const AccGradients& gradients = {});

// One dtype's kernels: what the two above choose from.
struct StepKernels {
  void (*forward)(const StepForward&, const Part&, const RecurrentPart&);
  void (*backward)(const StepBackward&, const Part&, const AccGradients&);
};
template <class scalar_t>
const StepKernels& step_kernels();

}  // namespace rnndrop::cpu
