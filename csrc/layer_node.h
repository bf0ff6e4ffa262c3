// A layer's call as eager PyTorch makes it, in C++: the op below autograd, and where something is to be differentiated
// a node of the graph around it. rnndrop_cuda.autodiff decides who comes here, and has the same derivative in Python
// for whom not: torch.func, torch.compile, traces, subclasses.
#pragma once

#include <array>

#include "layer_call.h"

namespace rnndrop {

struct LayerDirection {
  LayerInputs in;
  bool reverse;
};

// Whether a gradient may be asked for.
bool may_be_differentiated(const LayerInputs& in);

// rnndrop::lstm_layer of a layer in one direction or in both, which have x and lengths in common; with `save` a node
// too, if a gradient may be asked for. The second result is empty where there is no second direction.
std::array<ForwardResult, 2> lstm_layer_with_node(c10::ArrayRef<LayerDirection> directions, bool save);

}  // namespace rnndrop
