// What csrc/cuda/backend.cpp takes from torch's CUDA headers and from cuBLAS, on the CPU and for CPU tensors; the
// headers beside this one stand in for torch's. cublasGemmEx_64 is BLAS' definition in a plain loop, with the checks
// that cuBLAS makes of its arguments, and TF32 where cuBLAS would use it.
#pragma once

#include <ATen/Context.h>
#include <c10/core/Allocator.h>
#include <c10/core/Device.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Exception.h>
#include <c10/util/Half.h>
#include <cuda_runtime_api.h>
#include <library_types.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "late_streams.h"

enum cublasStatus_t { CUBLAS_STATUS_SUCCESS, CUBLAS_STATUS_INVALID_VALUE, CUBLAS_STATUS_NOT_SUPPORTED };
enum cublasOperation_t { CUBLAS_OP_N, CUBLAS_OP_T };
enum cublasComputeType_t { CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_FAST_TF32, CUBLAS_COMPUTE_64F };
enum cublasGemmAlgo_t { CUBLAS_GEMM_DEFAULT };
enum cublasMath_t {
  CUBLAS_DEFAULT_MATH = 0,
  CUBLAS_TF32_TENSOR_OP_MATH = 3,
  CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION = 16
};
struct cublasContext {
  int math_mode;
  int stream;
};
using cublasHandle_t = cublasContext*;

#define C10_CUDA_CHECK(call) TORCH_CHECK((call) == cudaSuccess, "CUDA error in " #call)
#define TORCH_CUDABLAS_CHECK(call) TORCH_CHECK((call) == CUBLAS_STATUS_SUCCESS, "cuBLAS error in " #call)

namespace c10::cuda {
struct CUDAGuard {
  explicit CUDAGuard(c10::Device device) { TORCH_CHECK(device.is_cuda(), "expected a CUDA device, got ", device); }
};
// Everything here is done at once, unless late_streams.h is on.
struct CUDAStream {
  int number = 0;
  operator cudaStream_t() const { return late::stream_of(number); }
  c10::DeviceIndex device_index() const { return 0; }
};
struct CUDAStreamGuard {
  explicit CUDAStreamGuard(CUDAStream stream) : before(std::exchange(late::current, stream.number)) {}
  CUDAStreamGuard(const CUDAStreamGuard&) = delete;
  ~CUDAStreamGuard() { late::current = before; }
  int before;
};
inline CUDAStream getCurrentCUDAStream() { return {late::current}; }
struct CUDAStreamCaptureModeGuard {
  explicit CUDAStreamCaptureModeGuard(cudaStreamCaptureMode) {}
};
enum class CaptureStatus { None, Active };
inline CaptureStatus currentStreamCaptureStatusMayInitCtx() {
  return late::capturing ? CaptureStatus::Active : CaptureStatus::None;
}
inline int64_t streams_from_pool = 0;
inline CUDAStream getStreamFromPool(bool, c10::DeviceIndex) {
  ++streams_from_pool;
  return {1};
}
}  // namespace c10::cuda

namespace c10::cuda::CUDACachingAllocator {
inline void recordStream(const c10::DataPtr& memory, CUDAStream stream) { late::used_on(memory.get(), stream.number); }
}  // namespace c10::cuda::CUDACachingAllocator

namespace at::cuda {
// What the launches so far have taken, as a test says of each (emu::on_launch), and whether one of two events that
// measure a time is behind us.
inline float milliseconds = 0;
inline bool measuring = false;
struct CUDAEvent {
  explicit CUDAEvent(unsigned flags = cudaEventDisableTiming) : has_time(flags == cudaEventDefault) {}
  void record(c10::cuda::CUDAStream stream) {
    mark = late::mark_of(stream.number);
    at = milliseconds;
    if (has_time) measuring = !measuring;
  }
  void block(c10::cuda::CUDAStream stream) { late::wait(stream.number, mark); }
  void synchronize() const { late::host_waits(); }
  float elapsed_time(const CUDAEvent& end) const {
    TORCH_CHECK(has_time && end.has_time, "an event without a time");
    return end.at - at;
  }
  late::Mark mark;
  bool has_time;
  float at = 0;
};
// An H100, or what a test makes of it.
inline cudaDeviceProp& device_properties() {
  static cudaDeviceProp gpu = [] {
    cudaDeviceProp h100{};
    h100.major = 9;
    h100.multiProcessorCount = 132;
    h100.sharedMemPerBlockOptin = 232448;
    return h100;
  }();
  return gpu;
}
inline cudaDeviceProp* getCurrentDeviceProperties() { return &device_properties(); }

// As torch does, set up after the switch of torch.backends.cuda.matmul.
inline cublasHandle_t getCurrentCUDABlasHandle() {
  static cublasContext context;
  context.stream = late::current;
  context.math_mode = at::globalContext().allowTF32CuBLAS() ? CUBLAS_TF32_TENSOR_OP_MATH : CUBLAS_DEFAULT_MATH;
  return &context;
}
}  // namespace at::cuda

inline cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode) {
  handle->math_mode = mode;
  return CUBLAS_STATUS_SUCCESS;
}

namespace fake_cublas {

inline int64_t gemms = 0;     // so many were called for
inline int64_t failing = -1;  // the one of this number fails

inline float to_tf32(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  bits = (bits + 0x1000u) & 0xffffe000u;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// C[m,n] = op(A)[m,k] op(B)[k,n] + beta C, every matrix stored by columns
template <class scalar_t, class acc_t>
void gemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, double alpha, const void* a, int64_t lda,
          const void* b, int64_t ldb, double beta, void* c, int64_t ldc, bool tf32) {
  const auto* A = static_cast<const scalar_t*>(a);
  const auto* B = static_cast<const scalar_t*>(b);
  auto* C = static_cast<scalar_t*>(c);
  const auto load = [tf32](scalar_t value) {
    return tf32 ? static_cast<acc_t>(to_tf32(static_cast<float>(value))) : static_cast<acc_t>(value);
  };
  const acc_t alpha_value = static_cast<acc_t>(alpha), beta_value = static_cast<acc_t>(beta);
  for (int64_t col = 0; col < n; ++col) {
    for (int64_t row = 0; row < m; ++row) {
      acc_t sum = 0;
      for (int64_t p = 0; p < k; ++p) {
        sum += load(A[trans_a ? p + row * lda : row + p * lda]) * load(B[trans_b ? col + p * ldb : p + col * ldb]);
      }
      scalar_t& out = C[row + col * ldc];
      // With beta = 0 what lies in C is not read: it may be NaN.
      out = static_cast<scalar_t>(alpha_value * sum + (beta_value == 0 ? 0 : beta_value * static_cast<acc_t>(out)));
    }
  }
}

}  // namespace fake_cublas

inline cublasStatus_t cublasGemmEx_64(cublasHandle_t handle, cublasOperation_t trans_a, cublasOperation_t trans_b,
                                      int64_t m, int64_t n, int64_t k, const void* alpha, const void* A,
                                      cudaDataType_t type_a, int64_t lda, const void* B, cudaDataType_t type_b,
                                      int64_t ldb, const void* beta, void* C, cudaDataType_t type_c, int64_t ldc,
                                      cublasComputeType_t compute, cublasGemmAlgo_t) {
  if (fake_cublas::gemms++ == fake_cublas::failing) return CUBLAS_STATUS_NOT_SUPPORTED;
  const auto too_small = [](int64_t leading, int64_t rows) { return leading < std::max<int64_t>(1, rows); };
  if (m <= 0 || n <= 0 || k <= 0 || too_small(lda, trans_a ? k : m) || too_small(ldb, trans_b ? n : k) ||
      too_small(ldc, m)) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  const bool tf32_compute = compute == CUBLAS_COMPUTE_32F_FAST_TF32;
  if (type_a != type_b || type_a != type_c || (type_a == CUDA_R_64F) != (compute == CUBLAS_COMPUTE_64F) ||
      (tf32_compute && type_a != CUDA_R_32F)) {
    return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  const bool tf32 = type_a == CUDA_R_32F && (tf32_compute || handle->math_mode & CUBLAS_TF32_TENSOR_OP_MATH);
  const auto value_of = [compute](const void* scalar) {
    return compute == CUBLAS_COMPUTE_64F ? *static_cast<const double*>(scalar) : *static_cast<const float*>(scalar);
  };
  const double alpha_value = value_of(alpha), beta_value = value_of(beta);
  const auto run = [&](auto gemm) {
    late::enqueue(handle->stream, [=] {
      gemm(trans_a == CUBLAS_OP_T, trans_b == CUBLAS_OP_T, m, n, k, alpha_value, A, lda, B, ldb, beta_value, C, ldc,
           tf32);
    });
    return CUBLAS_STATUS_SUCCESS;
  };
  switch (type_a) {
    case CUDA_R_64F: return run(fake_cublas::gemm<double, double>);
    case CUDA_R_32F: return run(fake_cublas::gemm<float, float>);
    case CUDA_R_16BF: return run(fake_cublas::gemm<c10::BFloat16, float>);
    case CUDA_R_16F: return run(fake_cublas::gemm<c10::Half, float>);
    default: return CUBLAS_STATUS_NOT_SUPPORTED;
  }
}
