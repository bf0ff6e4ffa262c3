// Rows of several matrices times masks in one launch. A plain launcher, no torch header, as step_kernels.h.
#pragma once

#include <cuda_runtime_api.h>

#include "params.h"

namespace rnndrop::cuda {

// out = in times a mask, row by row; scalar, dense, and out may be in. Neighbouring rows share a row of the mask, and
// behind its last the first one follows: of [4H,K] all have a mask [K], those of a gate a mask [4,1,K], and of [T,B,K]
// those of a sample a mask [B,K].
struct MaskedRows {
  const void* in = nullptr;
  void* out = nullptr;
  int64_t rows = 0, columns = 0;
  const void* mask = nullptr;  // [masks, columns] or null, which copies
  int64_t rows_of_mask = 1;    // neighbouring rows with the same row of it
  int64_t masks = 1;
};

constexpr int64_t kMatricesOfLaunch = 4;

// Enqueue it for at most kMatricesOfLaunch matrices of a dtype; without a row among them nothing is launched. Returns
// the launch's error.
cudaError_t mask_rows(const MaskedRows* matrices, int64_t n, Dtype dtype, cudaStream_t stream);

}  // namespace rnndrop::cuda
