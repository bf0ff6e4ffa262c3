// The float32 engine for bfloat16 and float16: inputs are widened to float32, outputs and gradients narrowed.
//
// A chunk of steps at a time, so that beside the tensors of the call only a chunk lies in memory in float32, in the
// third-level cache where it is not too large. Inside a chunk h is handed on in float32; c and the sums of the weights'
// gradients are float32 throughout.
#pragma once

#include "layer_call.h"

namespace rnndrop::cpu {

// Fill the outputs of a call in a 16-bit type and without a projection.
void widened_forward(const ForwardCall& call);
void widened_backward(const BackwardCall& call);

}  // namespace rnndrop::cpu
