// A layer's call as eager PyTorch makes it, in C++: the op below autograd, and where something is to be differentiated
// a node of the graph around it. rnndrop_cuda.autodiff decides who comes here, and has the same derivative in Python
// for whom not: torch.func, torch.compile, traces, subclasses.
#pragma once

#include "layer_call.h"

namespace rnndrop {

// Whether a gradient may be asked for.
bool may_be_differentiated(const LayerInputs& in);

// rnndrop::lstm_layer of its arguments; with `save` a node too, if a gradient may be asked for.
ForwardResult lstm_layer_with_node(const LayerInputs& in, bool reverse, bool save);

}  // namespace rnndrop
