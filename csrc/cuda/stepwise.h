// The time loop for every call that no persistent engine runs: a GEMM and a kernel a step.
#pragma once

#include "cuda/primitives.h"
#include "layer_call.h"

namespace rnndrop::cuda {

void stepwise_forward(const ForwardCall& call, const Primitives& gpu);
void stepwise_backward(const BackwardCall& call, const Primitives& gpu);

}  // namespace rnndrop::cuda
