// A layer's call as eager PyTorch makes it, in C++: the op below autograd, and where something is to be differentiated
// a node of the graph around it. rnndrop_cuda.autodiff decides who comes here, and has the same derivative in Python
// for whom not: torch.func, torch.compile, traces, subclasses.
#pragma once

#include "layer_call.h"

namespace rnndrop {

// rnndrop::lstm_layer of its arguments; with `save` a node too, if a gradient may be asked for.
ForwardResult lstm_layer_with_node(const at::Tensor& x, const at::Tensor& h_0, const at::Tensor& c_0,
                                   const at::Tensor& W_ih, const at::Tensor& W_hh, const OptionalTensor& b_ih,
                                   const OptionalTensor& b_hh, const OptionalTensor& W_hr, const OptionalTensor& mask_x,
                                   const OptionalTensor& mask_h, const OptionalTensor& mask_g,
                                   const OptionalTensor& mask_c, const OptionalTensor& zone_c,
                                   const OptionalTensor& zone_h, const OptionalTensor& lengths, bool reverse,
                                   bool save);

}  // namespace rnndrop
