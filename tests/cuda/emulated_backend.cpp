// The CUDA backend without a GPU, as ops on CPU tensors: the shared time loop, the kernels of step_kernels.cu run by
// the emulation, and in place of cuBLAS a plain column-major GEMM that is told what gemm_arguments.h would tell cuBLAS.
#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <torch/library.h>

#include "cuda/gemm_arguments.h"
#include "cuda/step_kernels.h"
#include "cuda_emulation.h"
#include "lstm_layer.h"

namespace rnndrop {
namespace {

// C[m,n] = op(A)[m,k] op(B)[k,n] + beta C, every matrix in columns: BLAS' definition, and its checks of the arguments.
template <class scalar_t>
void column_major_gemm(const cuda::GemmArguments& p, const scalar_t* A, const scalar_t* B, bool accumulate,
                       scalar_t* C) {
  const auto [trans_a, lda] = p.first;
  const auto [trans_b, ldb] = p.second;
  TORCH_CHECK(lda >= std::max<int64_t>(1, trans_a ? p.k : p.m), "lda ", lda);
  TORCH_CHECK(ldb >= std::max<int64_t>(1, trans_b ? p.n : p.k), "ldb ", ldb);
  TORCH_CHECK(p.ldc >= std::max<int64_t>(1, p.m), "ldc ", p.ldc);
  for (int64_t col = 0; col < p.n; ++col) {
    for (int64_t row = 0; row < p.m; ++row) {
      scalar_t& out = C[row + col * p.ldc];
      at::opmath_type<scalar_t> sum = accumulate ? static_cast<at::opmath_type<scalar_t>>(out) : 0;
      for (int64_t k = 0; k < p.k; ++k) {
        sum += static_cast<at::opmath_type<scalar_t>>(A[trans_a ? k + row * lda : row + k * lda]) *
               static_cast<at::opmath_type<scalar_t>>(B[trans_b ? col + k * ldb : k + col * ldb]);
      }
      out = static_cast<scalar_t>(sum);
    }
  }
}

cuda::MatrixView view(const at::Tensor& matrix) {
  return {matrix.size(0), matrix.size(1), matrix.stride(0), matrix.stride(1)};
}

void gemm(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, bool accumulate) {
  const cuda::GemmArguments p = cuda::gemm_arguments(view(out), view(a), view(b));
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, out.scalar_type(), "gemm", [&] {
    column_major_gemm(p, b.const_data_ptr<scalar_t>(), a.const_data_ptr<scalar_t>(), accumulate,
                      out.data_ptr<scalar_t>());
  });
}

class EmulatedBackend final : public Backend {
 public:
  void gemm(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, bool accumulate) const override {
    rnndrop::gemm(out, a, b, accumulate);
  }
  void step_forward(const StepForward& step) const override { check(cuda::step_forward(step, nullptr)); }
  void step_backward(const StepBackward& step) const override { check(cuda::step_backward(step, nullptr)); }

 private:
  static void check(cudaError_t error) { TORCH_CHECK(error == cudaSuccess, "launch failed with error ", int(error)); }
};

ForwardResult forward(const at::Tensor& x, const at::Tensor& h_0, const at::Tensor& c_0, const at::Tensor& W_ih,
                      const at::Tensor& W_hh, const OptionalTensor& b_ih, const OptionalTensor& b_hh,
                      const OptionalTensor& mask_x, const OptionalTensor& mask_h, const OptionalTensor& mask_g,
                      const OptionalTensor& lengths, bool reverse) {
  return lstm_layer_forward(EmulatedBackend(), x, h_0, c_0, W_ih, W_hh, b_ih, b_hh, mask_x, mask_h, mask_g, lengths,
                            reverse);
}

BackwardResult backward(const OptionalTensor& dy, const OptionalTensor& dh_n, const OptionalTensor& dc_n,
                        const at::Tensor& x, const at::Tensor& h_0, const at::Tensor& W_ih, const at::Tensor& W_hh,
                        const OptionalTensor& mask_x, const OptionalTensor& mask_h, const OptionalTensor& mask_g,
                        const OptionalTensor& lengths, bool reverse, const at::Tensor& y, const at::Tensor& gates,
                        const at::Tensor& c, const at::Tensor& h_tilde, bool need_dx, bool need_dW) {
  return lstm_layer_backward(EmulatedBackend(), dy, dh_n, dc_n, x, h_0, W_ih, W_hh, mask_x, mask_h, mask_g, lengths,
                             reverse, y, gates, c, h_tilde, need_dx, need_dW);
}

}  // namespace

TORCH_LIBRARY(rnndrop_emulated, m) {
  m.def(kLayerSchema);
  m.def(kLayerBackwardSchema);
  m.def("gemm(Tensor(a!) out, Tensor a, Tensor b, bool accumulate) -> ()");
  m.def("set_schedule(str name) -> ()", [](const std::string& name) { emu::config.set_schedule(name); });
  m.def("launches() -> int", [] { return int64_t{emu::stats.launches}; });
}

TORCH_LIBRARY_IMPL(rnndrop_emulated, CPU, m) {
  m.impl("lstm_layer", forward);
  m.impl("lstm_layer_backward", backward);
  m.impl("gemm", gemm);
}

}  // namespace rnndrop
