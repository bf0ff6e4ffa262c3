// Rows of several matrices times masks in one launch. A plain launcher, no torch header, as step_kernels.h.
#pragma once

#include <cuda_runtime_api.h>

#include "params.h"

namespace rnndrop::cuda {

constexpr int64_t kMatricesOfLaunch = 4;

// Enqueue it for at most kMatricesOfLaunch matrices of a dtype; without a row among them nothing is launched. Returns
// the launch's error.
cudaError_t mask_rows(const MaskedRows* matrices, int64_t n, Dtype dtype, cudaStream_t stream);

}  // namespace rnndrop::cuda
