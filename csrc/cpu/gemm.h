// The CPU backend's matrix product.
#pragma once

#include <ATen/core/Tensor.h>

namespace rnndrop::cpu {

// out[M,N] = a[M,K] b[K,N], or out += with accumulate; see Backend::gemm.
void gemm(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, bool accumulate);

// "oneDNN" or "ATen": who multiplies large float32 matrices here.
const char* float32_gemm_library();

}  // namespace rnndrop::cpu
