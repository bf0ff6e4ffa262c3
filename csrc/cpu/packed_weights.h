// Weights packed once for many calls of a layer without a gradient, whose few rows are not worth packing them for.
//
// Memory: the weight's own in the type that is multiplied, so twice that of 16 bits that are widened.
#pragma once

#include <cstdint>

#include "params.h"

namespace rnndrop::cpu {

// Bytes of W [4H,K], packed.
int64_t packed_bytes(Dtype dtype, int64_t H, int64_t K);

// panels [packed_bytes()], at a cache line = W [4H,K], for this processor.
void pack_weight(void* panels, Dtype dtype, const void* W, int64_t H, int64_t K);

}  // namespace rnndrop::cpu
