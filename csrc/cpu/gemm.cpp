// Picks who multiplies on the CPU: ATen, but for float32 on processors that are not Intel's, and for 16-bit types
// that the processor has no matrix code for.
//
// ATen hands float32 to MKL, and MKL does not use AVX-512 on other vendors' processors: 100 against oneDNN's 230
// GFLOP/s on one Zen 5 core. nn.LSTM is oneDNN's there, so MKL would lose to it before a line of ours ran.
#include "cpu/gemm.h"

#include <ATen/ATen.h>

#if defined(__x86_64__) && defined(__GNUC__)
namespace at::native {
// Exported by libtorch_cpu, declared in no header that torch installs. Weak: where a torch has it no more, this is
// a null pointer and ATen multiplies.
__attribute__((weak)) void mkldnn_matmul(const Tensor& mat1, const Tensor& mat2, const Tensor& result, float beta,
                                         float alpha);
}  // namespace at::native
#define RNNDROP_MAY_HAVE_ONEDNN
#endif

namespace rnndrop::cpu {
namespace {

bool onednn_is_faster() {
#ifdef RNNDROP_MAY_HAVE_ONEDNN
  static const bool not_intel = !__builtin_cpu_is("intel");
  return not_intel && at::native::mkldnn_matmul && at::globalContext().userEnabledMkldnn();
#else
  return false;
#endif
}

// Without matrix instructions for a 16-bit type ATen multiplies it in plain loops, up to 40 times slower than float32.
bool multiplied_in_float32(at::ScalarType dtype) {
#if defined(__x86_64__) && defined(__GNUC__)
  if (dtype == at::kHalf) return !__builtin_cpu_supports("avx512fp16");
  if (dtype == at::kBFloat16) return !__builtin_cpu_supports("avx512bw");
#endif
  return false;
}

// Row-major or the transpose of it, without gaps between the rows.
bool dense(const at::Tensor& matrix) { return matrix.is_contiguous() || matrix.t().is_contiguous(); }

// Below this many multiplications oneDNN's 10 us a call outweigh its speed.
constexpr int64_t kOneDnnMinimum = 1 << 20;

}  // namespace

void gemm(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, bool accumulate) {
  if (multiplied_in_float32(out.scalar_type())) {
    const at::Tensor product =
        accumulate ? out.to(at::kFloat) : at::empty(out.sizes(), out.options().dtype(at::kFloat));
    gemm(product, a.to(at::kFloat), b.to(at::kFloat), accumulate);
    out.copy_(product);
    return;
  }
#ifdef RNNDROP_MAY_HAVE_ONEDNN
  if (out.scalar_type() == at::kFloat && a.size(0) * a.size(1) * b.size(1) >= kOneDnnMinimum && out.is_contiguous() &&
      dense(a) && dense(b) && onednn_is_faster()) {
    at::native::mkldnn_matmul(a, b, out, accumulate ? 1.f : 0.f, 1.f);
    return;
  }
#endif
  at::Tensor result = out;
  if (accumulate) {
    at::addmm_out(result, result, a, b);
  } else {
    at::mm_out(result, a, b);
  }
}

const char* float32_gemm_library() { return onednn_is_faster() ? "oneDNN" : "ATen"; }

}  // namespace rnndrop::cpu
