// The CPU backend's matrix product where its engine does not serve: projections.
#pragma once

#include <ATen/core/Tensor.h>

namespace rnndrop::cpu {

// out[M,N] = a[M,K] b[K,N], or out += with accumulate; see Primitives::gemm.
void gemm(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, bool accumulate);

}  // namespace rnndrop::cpu
