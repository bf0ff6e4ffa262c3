// Samples of a batch of sequences in another order, with a derivative.
#pragma once

#include <ATen/core/Tensor.h>

namespace rnndrop {

// x[:, order] for x [T,B,n] on the CPU, dense whatever x is. index_select takes three times as long over short rows,
// and its derivative longer. order, back: int64 [B], each the other's inverse.
at::Tensor permute_samples(const at::Tensor& x, const at::Tensor& order, const at::Tensor& back);

}  // namespace rnndrop
