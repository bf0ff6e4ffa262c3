// The pointwise step on the CPU: rows [begin, end) of the batch, in the widest vectors this CPU has.
#pragma once

#include "lstm_step.h"

namespace rnndrop::cpu {

void step_forward(const StepForward& step, int64_t begin, int64_t end);
void step_backward(const StepBackward& step, int64_t begin, int64_t end);

// "AVX512", "AVX2" or "baseline": what the two above run as on this machine.
const char* vector_isa();

}  // namespace rnndrop::cpu
