// The CPU backend's matrix product where its engine does not serve: 16-bit types and projections.
#pragma once

#include <ATen/core/Tensor.h>

namespace rnndrop::cpu {

// out[M,N] = a[M,K] b[K,N], or out += with accumulate; see Primitives::gemm.
void gemm(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, bool accumulate);

// Whether the processor has instructions that multiply bfloat16, faster than float32.
bool has_bfloat16_products();

}  // namespace rnndrop::cpu
