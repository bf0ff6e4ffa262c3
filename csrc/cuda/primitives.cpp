#include "cuda/primitives.h"

#include <ATen/Context.h>
#include <ATen/cuda/Exceptions.h>

#include "cuda/gemm_arguments.h"
#include "cuda/step_kernels.h"

namespace rnndrop::cuda {
namespace {

using at::Tensor;

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

cublasOperation_t operation(const GemmOperand& operand) { return operand.transpose ? CUBLAS_OP_T : CUBLAS_OP_N; }

MatrixView view(const Tensor& matrix) { return {matrix.size(0), matrix.size(1), matrix.stride(0), matrix.stride(1)}; }

// The handle comes set up for the current stream and after cuda.matmul's switch. With the plain mode the compute type
// alone decides on TF32, and sums of half-precision products are never rounded on the way. Whoever gets the handle
// next sets it anew.
cublasHandle_t cublas_of_current_stream() {
  const cublasHandle_t handle = at::cuda::getCurrentCUDABlasHandle();
  const auto mode = static_cast<cublasMath_t>(CUBLAS_DEFAULT_MATH | CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION);
  TORCH_CUDABLAS_CHECK(cublasSetMathMode(handle, mode));
  return handle;
}

}  // namespace

Primitives::Primitives()
    : stream_(c10::cuda::getCurrentCUDAStream()), cublas_(cublas_of_current_stream()), tf32_(nn_lstm_uses_tf32()) {}

void Primitives::gemm(const Tensor& out, const Tensor& a, const Tensor& b, bool accumulate) const {
  if (out.numel() == 0) return;
  if (a.size(1) == 0) {
    if (!accumulate) out.zero_();
    return;
  }
  const GemmArguments p = gemm_arguments(view(out), view(a), view(b));
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

void Primitives::step_forward(const StepForward& step) const { C10_CUDA_CHECK(cuda::step_forward(step, stream_)); }
void Primitives::step_backward(const StepBackward& step) const { C10_CUDA_CHECK(cuda::step_backward(step, stream_)); }
void Primitives::mask_rows(c10::ArrayRef<MaskedRows> matrices, Dtype dtype) const {
  C10_CUDA_CHECK(cuda::mask_rows(matrices.data(), matrices.size(), dtype, stream_));
}

}  // namespace rnndrop::cuda
