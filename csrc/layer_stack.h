// The stack of layers and directions in C++: rnndrop_cuda/stack.py for plain tensors, where nothing but the layers has
// a say. Without Python, which takes longer over a small layer than the kernels do.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

#include "cpu/backend.h"
#include "layer_inputs.h"

namespace rnndrop {

// One layer in one direction.
struct StackLayer {
  at::Tensor W_ih, W_hh;
  OptionalTensor b_ih, b_hh, W_hr;
  OptionalTensor mask_x, mask_h, mask_g;
  OptionalTensor mask_w;  // [4H,P], multiplies W_hh
  OptionalTensor mask_y;  // [T,B,P], multiplies the output on its way into the layer above
  OptionalTensor mask_c, zone_c, zone_h;
};

struct StackState {
  at::Tensor h, c;  // [layers and directions, B, P] and [..., B, H]
};

struct StackInputs {
  at::Tensor x;                  // [T,B,I], with any strides
  std::optional<StackState> hx;  // zeros, where there is none
  OptionalTensor lengths;        // int64 [B]
  std::vector<StackLayer> layers;
  int64_t directions;
};

struct StackResult {
  at::Tensor y;
  StackState final;
};

// Packed weights of each layer and direction.
using PackedLayers = std::vector<cpu::PackedLayer>;

// differentiated: whether a gradient may be asked for. packed: null, or of these weights, for a call without masks and
// lengths that is not differentiated.
StackResult run_stack(const StackInputs& in, bool differentiated, const PackedLayers* packed);

}  // namespace rnndrop
