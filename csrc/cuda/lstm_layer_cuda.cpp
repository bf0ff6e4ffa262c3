// The CUDA backend, engine "stepwise": cuBLAS for every GEMM, one kernel launch for everything else in a step, all on
// the caller's device and stream; nothing here waits for the GPU.
//
// cuBLAS is called directly and not through at::addmm, which follows torch.backends.cuda.matmul's TF32 switch where
// nn.LSTM follows cuDNN's, and costs a dispatch through ATen at each step.
#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/cuda/CUDAContextLight.h>
#include <ATen/cuda/Exceptions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "cuda/gemm_arguments.h"
#include "cuda/step_kernels.h"
#include "lstm_layer.h"

namespace rnndrop {
namespace {

bool nn_lstm_uses_tf32() {
  const at::Context& context = at::globalContext();
  return context.userEnabledCuDNN() ? context.allowTF32CuDNN(at::Float32Op::RNN) : context.allowTF32CuBLAS();
}

cudaDataType_t data_type(at::ScalarType dtype) {
  switch (dtype) {
    case at::kDouble: return CUDA_R_64F;
    case at::kFloat: return CUDA_R_32F;
    case at::kBFloat16: return CUDA_R_16BF;
    case at::kHalf: return CUDA_R_16F;
    default: TORCH_INTERNAL_ASSERT(false, "dtype ", dtype, " has passed the op's checks");
  }
}

cublasComputeType_t compute_type(at::ScalarType dtype, bool tf32) {
  if (dtype == at::kDouble) return CUBLAS_COMPUTE_64F;
  return dtype == at::kFloat && tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
}

cublasOperation_t operation(const cuda::GemmOperand& operand) {
  return operand.transpose ? CUBLAS_OP_T : CUBLAS_OP_N;
}

cuda::MatrixView view(const at::Tensor& matrix) {
  return {matrix.size(0), matrix.size(1), matrix.stride(0), matrix.stride(1)};
}

c10::Device cuda_device_of(const at::Tensor& x) {
  // The dispatcher comes here for any CUDA argument; the guard below needs the one that the others are held to.
  TORCH_CHECK(x.is_cuda(), "x: expected a CUDA tensor like the other arguments, got one on ", x.device());
  return x.device();
}

// Lives for one call of the op.
class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(const at::Tensor& x)
      : guard_(cuda_device_of(x)),
        stream_(c10::cuda::getCurrentCUDAStream()),
        cublas_(at::cuda::getCurrentCUDABlasHandle()),
        tf32_(nn_lstm_uses_tf32()) {
    // The handle comes set up after cuda.matmul's switch. With the plain mode the compute type alone decides on TF32,
    // and sums of half-precision products are never rounded on the way. Whoever gets the handle next sets it anew.
    const auto mode = static_cast<cublasMath_t>(CUBLAS_DEFAULT_MATH | CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION);
    TORCH_CUDABLAS_CHECK(cublasSetMathMode(cublas_, mode));
  }

  void gemm(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, bool accumulate) const override {
    if (out.numel() == 0) return;
    if (a.size(1) == 0) {
      if (!accumulate) out.zero_();
      return;
    }
    const cuda::GemmArguments p = cuda::gemm_arguments(view(out), view(a), view(b));
    const at::ScalarType dtype = out.scalar_type();
    const cudaDataType_t type = data_type(dtype);
    const double one_64 = 1, beta_64 = accumulate;
    const float one_32 = 1, beta_32 = accumulate;
    const bool is_double = dtype == at::kDouble;  // alpha and beta are of the compute type
    const void* alpha = is_double ? static_cast<const void*>(&one_64) : &one_32;
    const void* beta = is_double ? static_cast<const void*>(&beta_64) : &beta_32;
    TORCH_CUDABLAS_CHECK(cublasGemmEx_64(cublas_, operation(p.first), operation(p.second), p.m, p.n, p.k, alpha,
                                         b.const_data_ptr(), type, p.first.leading_dimension, a.const_data_ptr(), type,
                                         p.second.leading_dimension, beta, out.data_ptr(), type, p.ldc,
                                         compute_type(dtype, tf32_), CUBLAS_GEMM_DEFAULT));
  }

  void step_forward(const StepForward& step) const override { C10_CUDA_CHECK(cuda::step_forward(step, stream_)); }
  void step_backward(const StepBackward& step) const override { C10_CUDA_CHECK(cuda::step_backward(step, stream_)); }

 private:
  c10::cuda::CUDAGuard guard_;  // first: the stream and the handle are the current device's
  cudaStream_t stream_;
  cublasHandle_t cublas_;
  bool tf32_;
};

ForwardResult forward(const at::Tensor& x, const at::Tensor& h_0, const at::Tensor& c_0, const at::Tensor& W_ih,
                      const at::Tensor& W_hh, const OptionalTensor& b_ih, const OptionalTensor& b_hh,
                      const OptionalTensor& mask_x, const OptionalTensor& mask_h, const OptionalTensor& mask_g,
                      const OptionalTensor& lengths, bool reverse) {
  return lstm_layer_forward(CudaBackend(x), x, h_0, c_0, W_ih, W_hh, b_ih, b_hh, mask_x, mask_h, mask_g, lengths,
                            reverse);
}

BackwardResult backward(const OptionalTensor& dy, const OptionalTensor& dh_n, const OptionalTensor& dc_n,
                        const at::Tensor& x, const at::Tensor& h_0, const at::Tensor& W_ih, const at::Tensor& W_hh,
                        const OptionalTensor& mask_x, const OptionalTensor& mask_h, const OptionalTensor& mask_g,
                        const OptionalTensor& lengths, bool reverse, const at::Tensor& y, const at::Tensor& gates,
                        const at::Tensor& c, const at::Tensor& h_tilde, bool need_dx, bool need_dW) {
  return lstm_layer_backward(CudaBackend(x), dy, dh_n, dc_n, x, h_0, W_ih, W_hh, mask_x, mask_h, mask_g, lengths,
                             reverse, y, gates, c, h_tilde, need_dx, need_dW);
}

}  // namespace

TORCH_LIBRARY_IMPL(rnndrop, CUDA, m) {
  m.impl("lstm_layer", forward);
  m.impl("lstm_layer_backward", backward);
}

}  // namespace rnndrop
