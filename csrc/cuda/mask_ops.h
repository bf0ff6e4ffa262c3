// The ops of dropout_mask.h on CUDA. Nothing here waits for the GPU, and a graph may capture it: each replay draws
// anew.
#pragma once

#include "dropout_mask.h"

namespace rnndrop::cuda {

at::Tensor expand_dropout_mask(c10::Device device, const at::Tensor& seed, at::IntArrayRef shape, int64_t drop,
                               double dropped, double kept, at::ScalarType dtype);

// `options`: of the masks. `device`: the GPU that fills them.
std::vector<at::Tensor> draw_dropout_masks(c10::Device device, const at::TensorOptions& options, at::IntArrayRef dims,
                                           at::IntArrayRef sizes, at::IntArrayRef drop, at::ArrayRef<double> dropped,
                                           at::ArrayRef<double> kept, const std::optional<at::Generator>& generator);

}  // namespace rnndrop::cuda
