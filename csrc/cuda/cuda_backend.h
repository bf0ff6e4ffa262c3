// The CUDA backend: cuBLAS for every GEMM, and for the recurrence one launch (recurrence.h) or, engine "stepwise", a
// GEMM and a kernel a step; recurrence_plan.h chooses. All on the caller's device and in the order of the caller's
// stream; nothing here waits for the GPU.
//
// cuBLAS is called directly and not through at::addmm, which follows torch.backends.cuda.matmul's TF32 switch where
// nn.LSTM follows cuDNN's, and costs a dispatch through ATen at each step.
#pragma once

#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/cuda/CUDAContextLight.h>
#include <ATen/cuda/CUDAEvent.h>
#include <ATen/cuda/Exceptions.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <map>
#include <tuple>
#include <vector>

#include "cuda/gemm_arguments.h"
#include "cuda/recurrence.h"
#include "cuda/step_kernels.h"
#include "lstm_layer.h"

namespace rnndrop::cuda {

inline bool nn_lstm_uses_tf32() {
  const at::Context& context = at::globalContext();
  return context.userEnabledCuDNN() ? context.allowTF32CuDNN(at::Float32Op::RNN) : context.allowTF32CuBLAS();
}

inline cudaDataType_t data_type(at::ScalarType dtype) {
  switch (dtype) {
    case at::kDouble: return CUDA_R_64F;
    case at::kFloat: return CUDA_R_32F;
    case at::kBFloat16: return CUDA_R_16BF;
    case at::kHalf: return CUDA_R_16F;
    default: TORCH_INTERNAL_ASSERT(false, "dtype ", dtype, " has passed the op's checks");
  }
}

inline cublasComputeType_t compute_type(at::ScalarType dtype, bool tf32) {
  if (dtype == at::kDouble) return CUBLAS_COMPUTE_64F;
  return dtype == at::kFloat && tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
}

inline cublasOperation_t operation(const GemmOperand& operand) { return operand.transpose ? CUBLAS_OP_T : CUBLAS_OP_N; }

inline MatrixView view(const at::Tensor& matrix) {
  return {matrix.size(0), matrix.size(1), matrix.stride(0), matrix.stride(1)};
}

inline Gpu current_gpu() {
  const cudaDeviceProp* gpu = at::cuda::getCurrentDeviceProperties();
  return {gpu->major, gpu->multiProcessorCount, static_cast<int64_t>(gpu->sharedMemPerBlockOptin)};
}

// One for each device and thread: every further stream would cost cuBLAS a workspace.
inline c10::cuda::CUDAStream side_stream(c10::DeviceIndex device) {
  thread_local std::map<c10::DeviceIndex, c10::cuda::CUDAStream> streams;
  return streams.try_emplace(device, c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device)).first->second;
}

// Lives for one call of the op, in which nobody else uses this thread's cuBLAS handle.
class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(c10::Device device)
      : guard_(device),
        stream_(c10::cuda::getCurrentCUDAStream()),
        cublas_(cublas_of_current_stream()),
        tf32_(nn_lstm_uses_tf32()) {}

  void gemm(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, bool accumulate) const override {
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

  int64_t steps_per_chunk(int64_t T, int64_t /*B*/, at::ScalarType /*dtype*/) const override { return T; }

  void step_forward(const StepForward& step) const override { C10_CUDA_CHECK(cuda::step_forward(step, stream_)); }
  void step_backward(const StepBackward& step) const override { C10_CUDA_CHECK(cuda::step_backward(step, stream_)); }

  bool recurrence_forward(const RecurrenceForward& r, const at::Tensor& x, const Project& project) const override {
    RecurrenceLaunch launch{plan_for(r, /*backward=*/false), nullptr, stream_};
    if (launch.plan.engine == Engine::stepwise) return false;
    const at::Tensor scratch = at::empty({scratch_bytes(launch.plan, r.dtype)}, x.options().dtype(at::kByte));
    launch.scratch = scratch.data_ptr();
    const auto run = [&](const RecurrenceForward& part) {
      C10_CUDA_CHECK(
          with_recurrence_kernels(r.dtype, tf32_, [&](auto kernels) { return kernels.forward(part, launch); }));
    };
    const int64_t T = r.order.T, n_parts = overlapped_parts(launch.plan, T, current_gpu());
    if (n_parts == 1) {
      project({0, T});
      run(r);
      return true;
    }

    std::vector<Steps> parts;
    for (int64_t k = 0; k < n_parts; ++k) {
      const int64_t done = k * T / n_parts, n = (k + 1) * T / n_parts - done;
      parts.push_back({r.order.reverse ? T - done - n : done, n});
    }
    // The side stream begins when the caller's has come here, which waits for each part and so in the end for all.
    const c10::cuda::CUDAStream side = side_stream(stream_.device_index());
    std::vector<at::cuda::CUDAEvent> projected(n_parts);
    at::cuda::CUDAEvent here;
    here.record(stream_);
    here.block(side);
    {
      const c10::cuda::CUDAStreamGuard on_side(side);
      cublas_of_current_stream();
      for (int64_t k = 0; k < n_parts; ++k) {
        project(parts[k]);
        projected[k].record(side);
      }
    }
    cublas_of_current_stream();
    // h between two parts, in turn: one launch reads what the other wrote.
    const at::Tensor between = at::empty({2, r.B, r.H}, x.options());
    RecurrenceForward part = r;
    for (int64_t k = 0; k < n_parts; ++k) {
      projected[k].block(stream_);
      part.steps = parts[k];
      part.h_n = k + 1 == n_parts ? r.h_n : between.select(0, k % 2).data_ptr();
      run(part);
      part.h_begin = part.h_n;
    }
    return true;
  }

  bool recurrence_backward(const RecurrenceBackward& r, const at::Tensor& x) const override {
    RecurrenceLaunch launch{plan_for(r, /*backward=*/true), nullptr, stream_};
    if (launch.plan.engine == Engine::stepwise) return false;
    const at::Tensor scratch = at::empty({scratch_bytes(launch.plan, r.dtype)}, x.options().dtype(at::kByte));
    launch.scratch = scratch.data_ptr();
    C10_CUDA_CHECK(with_recurrence_kernels(r.dtype, tf32_, [&](auto kernels) { return kernels.backward(r, launch); }));
    return true;
  }

 private:
  // The handle comes set up for the current stream and after cuda.matmul's switch. With the plain mode the compute type
  // alone decides on TF32, and sums of half-precision products are never rounded on the way. Whoever gets the handle
  // next sets it anew.
  static cublasHandle_t cublas_of_current_stream() {
    const cublasHandle_t handle = at::cuda::getCurrentCUDABlasHandle();
    const auto mode = static_cast<cublasMath_t>(CUBLAS_DEFAULT_MATH | CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION);
    TORCH_CUDABLAS_CHECK(cublasSetMathMode(handle, mode));
    return handle;
  }

  // Remembered, for all lengths of the sequence: what a kernel may have and how many of its blocks fit is asked of the
  // driver.
  Plan plan_for(const Recurrence& r, bool backward) const {
    const bool general = is_general(r);
    const Engine wanted = wanted_engine;
    const Gpu gpu = current_gpu();
    using Key = std::tuple<int, int64_t, int64_t, Dtype, bool, int64_t, int64_t, bool, bool, Engine>;
    const Key key{gpu.major, gpu.n_sm, gpu.shared_memory, r.dtype, tf32_, r.B, r.H, backward, general, wanted};
    thread_local std::map<Key, Plan> plans;
    const auto known = plans.find(key);
    if (known != plans.end()) return known->second;
    const RecurrenceShape shape{r.dtype, tf32_, r.order.T, r.B, r.H, backward};
    const Plan plan = choose_plan(shape, gpu, wanted, [&](const Plan& candidate) {
      return with_recurrence_kernels(r.dtype, tf32_,
                                     [&](auto kernels) { return kernels.fits(candidate, backward, general); });
    });
    return plans.emplace(key, plan).first->second;
  }

  c10::cuda::CUDAGuard guard_;  // first: the stream and the handle are the current device's
  c10::cuda::CUDAStream stream_;
  cublasHandle_t cublas_;
  bool tf32_;
};

}  // namespace rnndrop::cuda
