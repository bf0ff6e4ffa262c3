// The time loop in float32 for 16-bit types that the processor has no matrix instructions for.
//
// ATen multiplies such a type in plain loops, up to 40 times slower than float32. Everything is widened once a call,
// which takes a copy of the call's tensors in float32 while it runs.
#pragma once

#include "layer_call.h"
#include "primitives.h"

namespace rnndrop::cpu {

// Whether ATen multiplies the type at full speed.
bool multiplies(at::ScalarType dtype);

// As stepwise_forward and stepwise_backward.
void widened_stepwise_forward(const ForwardCall& call, const Primitives& backend, int64_t steps_per_chunk);
void widened_stepwise_backward(const BackwardCall& call, const Primitives& backend, int64_t steps_per_chunk);

}  // namespace rnndrop::cpu
