// The CPU's engine: a whole layer in one call, float32 and float64, without a projection.
#pragma once

#include "lstm_sequence.h"

namespace rnndrop::cpu {

void layer_forward(const LayerForward& layer);
void layer_backward(const LayerBackward& layer);

}  // namespace rnndrop::cpu
