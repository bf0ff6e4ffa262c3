// The CPU's engine: a whole layer in one call.
//
// No library, no temporary larger than a few steps. Weights are packed, except for few rows.
//   layer_weights    which rows and columns are multiplied, and the backward's panels
//   forward_panels   the forward's panels; backward_panels products with the backward's
//   projection       h = W_hr (o * tanh(c)), forward, backward and the weight's gradient
//   running_rows     which rows of the batch are multiplied at a step
//   layer_schedule   chunks of steps, blocks of rows, shares of threads: all measured sizes
//   packed_weights   panels that many calls multiply
//   layer_forward    the forward; forward_plan what it decides before it runs
//   layer_backward   the backward; layer_weight_gradients, weight_gradient the gradients of the weights
//   packed_gemm, unpacked_gemm, outer_products, kept_columns, step_kernels
//                    what these are made of: products with panels, with weights as they lie, of very few rows,
//                    gathering what a mask keeps, and the cell
//   widening_gemm, bfloat16_gemm, amx_gemm, widened_steps, convert
//                    the same for 16-bit types, by what the processor has
//   compact_rows, strided_rows, buffer, threads
//                    rows and memory of a call, and its team of threads
#pragma once

#include "params.h"

namespace rnndrop::cpu {

// W_ih and W_hh as pack_weight packs them (packed_weights.h), for a layer without masks, lengths, zoneout, a projection
// and gates to save; both null for any other call.
struct PackedWeights {
  const void *W_ih = nullptr, *W_hh = nullptr;
};

void layer_forward(const LayerForward& layer, const PackedWeights& packed = {});
void layer_backward(const LayerBackward& layer);

// The same: S is what the tensors are stored in, T what is multiplied.
template <class S, class T>
void forward_in(const LayerForward& layer, const PackedWeights& packed);
template <class S, class T>
void backward_in(const LayerBackward& layer);

}  // namespace rnndrop::cpu
