// All masks of a call in one launch. A plain launcher, no torch header, as step_kernels.h.
#pragma once

#include <cuda_runtime_api.h>

#include "mask_bits.h"

namespace rnndrop::cuda {

// Where the seeds come from, mask after mask: memory, or by philox_mask_seed a generator's state. While a graph is
// being captured, that state lies in memory too, where each replay leaves its own.
struct MaskSeeds {
  const int32_t* given = nullptr;             // [number of masks, 3]; null where the state makes them
  uint64_t key = 0, offset = 0;               // the state
  const int64_t* key_in_memory = nullptr;     // in place of key
  const int64_t* offset_in_memory = nullptr;  // added to offset
};

// Enqueue what fills the masks of all runs, entries of 2, 4 or 8 bytes; one launch for every kMaskRunsOfLaunch of them.
// Runs without entries are not launched. Returns the launch's error.
constexpr int64_t kMaskRunsOfLaunch = 48;
cudaError_t fill_masks(const MaskRun* runs, int64_t n_runs, int64_t entry_bytes, const MaskSeeds& seeds,
                       cudaStream_t stream);

}  // namespace rnndrop::cuda
