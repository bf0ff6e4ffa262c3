// Which of two ways is faster for a bfloat16 layer, where a library multiplies bfloat16 with instructions of its own:
// the float32 engine behind widened tensors, or the time loop on the library's products.
#pragma once

#include "params.h"

namespace rnndrop::cpu {

// A layer as the choice sees it. With the shares of what its masks drop for the whole batch, and so leave for the
// engine to multiply; the time loop multiplies everything.
struct HalfLayer {
  int64_t T = 0, B = 0, I = 0, H = 0;
  double kept_of_x = 1, kept_of_h = 1;
};

// By times predicted from sizes alone, so that a layer goes the same way on every run and whatever the threads.
bool widened_forward_is_faster(const HalfLayer& layer);
bool widened_backward_is_faster(const HalfLayer& layer);

}  // namespace rnndrop::cpu
