// The time loop for every call that a backend has no engine for: GEMM + pointwise step, of any Primitives. CUDA alone
// has such calls; the CPU's engine takes all.
#pragma once

#include "layer_call.h"
#include "primitives.h"

namespace rnndrop {

// steps_per_chunk: how many steps the GEMMs that need no recurrence (those with x, W_ih and all dW) take at once.
void stepwise_forward(const ForwardCall& call, const Primitives& backend, int64_t steps_per_chunk);
void stepwise_backward(const BackwardCall& call, const Primitives& backend, int64_t steps_per_chunk);

}  // namespace rnndrop
