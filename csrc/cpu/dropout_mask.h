// The ops that make a mask of any size out of a few random numbers: torch's generator draws the seed, this the rest.
#pragma once

namespace rnndrop {

// seed int32 [*, 3] -> dtype [*, shape]: a mask for each seed, its entries `dropped` with probability drop / 2^16,
// else `kept`. A function of its arguments alone: the same bits on any number of threads and with any vectors.
inline constexpr const char* kDropoutMaskSchema =
    "expand_dropout_mask(Tensor seed, SymInt[] shape, int drop, float dropped, float kept, ScalarType dtype) -> Tensor";

// The same for each seed of [n, 3] with a shape, a drop and values of its own, in one call: dims[k] sizes for mask k.
inline constexpr const char* kDropoutMasksSchema =
    "expand_dropout_masks(Tensor seeds, int[] dims, int[] sizes, int[] drop, float[] dropped, float[] kept, "
    "ScalarType dtype) -> Tensor[]";

}  // namespace rnndrop
