#include "layer_stack.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/stack.h>
#include <c10/util/SmallVector.h>

#include <array>

#include "directions.h"
#include "layer_node.h"

namespace rnndrop {
namespace {

using at::Tensor;

// Of each layer and direction; none begins with zeros.
std::vector<OptionalTensor> initial_states(const std::optional<StackState>& hx, Tensor StackState::* of, size_t runs) {
  if (!hx) return std::vector<OptionalTensor>(runs);
  const std::vector<Tensor> states = ((*hx).*of).unbind();
  return {states.begin(), states.end()};
}

// [layers and directions, B, ...], without a copy of a single one.
Tensor stacked(const std::vector<Tensor>& states) {
  return states.size() == 1 ? states[0].unsqueeze_(0) : at::stack(states);
}

// One layer in all its directions, each with the states of the same place.
std::array<ForwardResult, 2> run_layer(const StackLayer* layers, const Tensor& x, const OptionalTensor& lengths,
                                       const OptionalTensor* h_0, const OptionalTensor* c_0, int64_t n_directions) {
  std::array<Tensor, 2> W_hh;
  c10::SmallVector<LayerDirection, 2> directions;
  bool save = false;
  for (int64_t k = 0; k < n_directions; ++k) {
    const StackLayer& of = layers[k];
    W_hh[k] = of.mask_w ? *of.mask_w * of.W_hh : of.W_hh;
    directions.push_back({{x, h_0[k], c_0[k], of.W_ih, W_hh[k], of.b_ih, of.b_hh, of.W_hr, of.mask_x, of.mask_h,
                           of.mask_g, of.mask_c, of.zone_c, of.zone_h, lengths},
                          /*reverse=*/k == 1});
    save |= may_be_differentiated(directions[k].in);
  }
  return lstm_layer_with_node(directions, save);
}

// The same with weights that were packed before.
std::array<ForwardResult, 2> run_packed(const StackLayer* layers, const cpu::PackedLayer* packed, const Tensor& x,
                                        const OptionalTensor* h_0, const OptionalTensor* c_0, int64_t n_directions) {
  std::array<ForwardResult, 2> results;
  const auto run = [&](int64_t k) {
    const StackLayer& of = layers[k];
    results[k] = packed[k].forward(x, h_0[k], c_0[k], of.W_ih, of.W_hh, of.b_ih, of.b_hh, /*reverse=*/k == 1);
  };
  for_each_direction(n_directions, x, layers[0].W_hh, run, [&](int64_t k) { return tensors_of(results[k]); });
  return results;
}

}  // namespace

StackResult run_stack(const StackInputs& in, bool differentiated, const PackedLayers* packed) {
  std::optional<at::AutoDispatchBelowADInplaceOrView> no_views;
  if (!differentiated) no_views.emplace();
  Tensor x = in.x;
  const int64_t runs = in.layers.size(), directions = in.directions;
  const auto initial_h = initial_states(in.hx, &StackState::h, runs);
  const auto initial_c = initial_states(in.hx, &StackState::c, runs);
  std::vector<Tensor> final_h(runs), final_c(runs);
  for (int64_t first = 0; first < runs; first += directions) {
    const StackLayer* layers = in.layers.data() + first;
    const OptionalTensor *h_0 = initial_h.data() + first, *c_0 = initial_c.data() + first;
    auto results = packed ? run_packed(layers, packed->data() + first, x, h_0, c_0, directions)
                          : run_layer(layers, x, in.lengths, h_0, c_0, directions);
    std::array<Tensor, 2> outputs;
    for (int64_t k = 0; k < directions; ++k) {
      auto& [y, h_n, c_n, gates, c, h_full] = results[k];
      outputs[k] = layers[k].mask_y ? *layers[k].mask_y * y : y;
      final_h[first + k] = std::move(h_n);
      final_c[first + k] = std::move(c_n);
    }
    x = directions == 1 ? outputs[0] : at::cat({outputs[0], outputs[1]}, -1);
  }
  // It may be changed in place before the backward, as nn.LSTM's in these cases.
  const bool alone = directions == 1 && (in.layers[0].W_hr || x.scalar_type() == at::kDouble);
  if (alone && x.requires_grad()) x = x.clone();
  return {x, {stacked(final_h), stacked(final_c)}};
}

}  // namespace rnndrop
