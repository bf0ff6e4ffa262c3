// The pointwise step on CUDA. Plain launchers, no torch header: the torch side (primitives.cpp) and the sanitizer
// driver of tests/cuda call these two.
#pragma once

#include <cuda_runtime_api.h>

#include "params.h"

namespace rnndrop::cuda {

// Enqueue one step's kernel on `stream`. An empty step (B = 0) enqueues nothing. Return the launch's error.
cudaError_t step_forward(const StepForward& step, cudaStream_t stream);
cudaError_t step_backward(const StepBackward& step, cudaStream_t stream);

}  // namespace rnndrop::cuda
