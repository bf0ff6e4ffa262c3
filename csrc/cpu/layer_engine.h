// The CPU's engine: a whole layer in one call, float32 and float64, without a projection.
#pragma once

#include "params.h"

namespace rnndrop::cpu {

// Whether it is compiled for a dtype. It is given no other.
bool engine_has(Dtype dtype);
void layer_forward(const LayerForward& layer);
void layer_backward(const LayerBackward& layer);

}  // namespace rnndrop::cpu
