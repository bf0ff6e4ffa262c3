// CUDA kernel that multiplies rows by masks: what W_ih needs before its products, and what the gradients need behind
// theirs, all of a call's matrices in one launch.
//
// A warp has a row. Nothing is shared and every entry is rounded once: the bits of ATen's product, whatever the order.
//
// Cost: each matrix read and written once, masks from the caches. dW_ih [512,300] and dW_hh [512,128] in float32 are
// 1.8 MB, 0.4 us at 4.8 TB/s: what is saved is launches, one for each matrix.
#include "masked_rows.h"
#include "numbers.cuh"

namespace rnndrop::cuda {
namespace {

constexpr int kLanes = 32, kWarps = 4;

struct Matrices {
  MaskedRows of[kMatricesOfLaunch];
  int64_t first_row[kMatricesOfLaunch];  // rows of the matrices before
  int64_t n, n_rows;
};

template <class scalar_t>
__device__ __forceinline__ scalar_t product(scalar_t a, scalar_t b) {
  return rounded<scalar_t>(to_acc(a) * to_acc(b));
}

template <class scalar_t>
__global__ void __launch_bounds__(kLanes* kWarps) masked_rows_kernel(const __grid_constant__ Matrices matrices) {
  const int64_t at = int64_t(blockIdx.x) * kWarps + threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
  if (at >= matrices.n_rows) return;
  int k = 0;
  while (k + 1 < matrices.n && at >= matrices.first_row[k + 1]) ++k;
  const MaskedRows& matrix = matrices.of[k];
  const int64_t row = at - matrices.first_row[k], columns = matrix.columns;
  const scalar_t* in = offset<scalar_t>(matrix.in, row * columns);
  scalar_t* out = offset<scalar_t>(matrix.out, row * columns);
  const scalar_t* mask = offset<scalar_t>(matrix.mask, row / matrix.rows_of_mask % matrix.masks * columns);

  using Pack = Vector<scalar_t>;
  const auto is_aligned = [](const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % sizeof(Pack) == 0; };
  const bool by_packs = columns % kVector<scalar_t> == 0 && is_aligned(in) && is_aligned(out) && is_aligned(mask);
  if (!by_packs) {
    for (int64_t j = lane; j < columns; j += kLanes) out[j] = mask ? product(in[j], mask[j]) : in[j];
    return;
  }
  for (int64_t j = lane * kVector<scalar_t>; j < columns; j += kLanes * kVector<scalar_t>) {
    Pack pack = *reinterpret_cast<const Pack*>(in + j);
    if (mask) {
      const Pack factors = *reinterpret_cast<const Pack*>(mask + j);
#pragma unroll
      for (int v = 0; v < kVector<scalar_t>; ++v) pack.data[v] = product(pack.data[v], factors.data[v]);
    }
    *reinterpret_cast<Pack*>(out + j) = pack;
  }
}

}  // namespace

cudaError_t mask_rows(const MaskedRows* matrices, int64_t n, Dtype dtype, cudaStream_t stream) {
  if (n > kMatricesOfLaunch) return cudaErrorInvalidValue;
  Matrices all{};
  for (int64_t k = 0; k < n; ++k) {
    if (matrices[k].rows == 0 || matrices[k].columns == 0) continue;
    all.of[all.n] = matrices[k];
    all.first_row[all.n++] = all.n_rows;
    all.n_rows += matrices[k].rows;
  }
  if (all.n == 0) return cudaSuccess;
  LaunchCfg config;
  config.grid = dim3(static_cast<unsigned>((all.n_rows + kWarps - 1) / kWarps));
  config.block = dim3(kLanes * kWarps);
  config.stream = stream;
  switch (dtype) {
    case Dtype::float64: return LAUNCH(config, masked_rows_kernel<double>, all);
    case Dtype::float32: return LAUNCH(config, masked_rows_kernel<float>, all);
    case Dtype::bfloat16: return LAUNCH(config, masked_rows_kernel<__nv_bfloat16>, all);
    case Dtype::float16: return LAUNCH(config, masked_rows_kernel<__half>, all);
  }
  return cudaErrorInvalidValue;  // no such dtype
}

}  // namespace rnndrop::cuda
