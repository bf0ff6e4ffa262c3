// ATen's product, except for 16-bit types that the processor has no matrix instructions for.
#include "cpu/gemm.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

namespace rnndrop::cpu {
namespace {

// Without matrix instructions for a 16-bit type ATen multiplies it in plain loops, up to 40 times slower than float32.
bool multiplied_in_float32(at::ScalarType dtype) {
#if defined(__x86_64__) && defined(__GNUC__)
  if (dtype == at::kHalf) return !__builtin_cpu_supports("avx512fp16");
  if (dtype == at::kBFloat16) return !__builtin_cpu_supports("avx512bw");
#endif
  return false;
}

}  // namespace

void gemm(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, bool accumulate) {
  if (multiplied_in_float32(out.scalar_type())) {
    const at::Tensor product =
        accumulate ? out.to(at::kFloat) : at::empty(out.sizes(), out.options().dtype(at::kFloat));
    gemm(product, a.to(at::kFloat), b.to(at::kFloat), accumulate);
    out.copy_(product);
    return;
  }
  at::Tensor result = out;
  if (accumulate) {
    at::addmm_out(result, result, a, b);
  } else {
    at::mm_out(result, a, b);
  }
}

}  // namespace rnndrop::cpu
