// The op that makes a mask of any size out of a few random numbers: torch's generator draws the seed, this the rest.
#pragma once

namespace rnndrop {

// seed int32 [*, 3] -> dtype [*, shape]: a mask for each seed, its entries `dropped` with probability drop / 2^16,
// else `kept`. A function of its arguments alone: the same bits on any number of threads and with any vectors.
inline constexpr const char* kDropoutMaskSchema =
    "expand_dropout_mask(Tensor seed, SymInt[] shape, int drop, float dropped, float kept, ScalarType dtype) -> Tensor";

}  // namespace rnndrop
