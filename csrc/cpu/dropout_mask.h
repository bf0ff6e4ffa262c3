// The ops that make a mask of any size out of a few random numbers: torch's generator draws the seed, this the rest.
#pragma once

namespace rnndrop {

// seed int32 [*, 3] -> dtype [*, shape]: a mask for each seed, its entries `dropped` with probability drop / 2^16,
// else `kept`. A function of its arguments alone: the same bits on any number of threads and with any vectors.
inline constexpr const char* kDropoutMaskSchema =
    "expand_dropout_mask(Tensor seed, SymInt[] shape, int drop, float dropped, float kept, ScalarType dtype) -> Tensor";

// Several masks, each with a seed of its own drawn as torch.randint(-2^31, 2^31, (3,), dtype=int32) draws it: dims[k]
// of the sizes are mask k's. One call, since a small layer feels each.
inline constexpr const char* kDrawDropoutMasksSchema =
    "draw_dropout_masks(int[] dims, int[] sizes, int[] drop, float[] dropped, float[] kept, ScalarType dtype, "
    "Generator? generator=None) -> Tensor[]";

}  // namespace rnndrop
