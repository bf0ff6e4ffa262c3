#include "layer_stack.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>
#include <c10/util/SmallVector.h>

#include <algorithm>
#include <array>

#include "directions.h"
#include "layer_node.h"

namespace rnndrop {
namespace {

using at::Tensor;

// The initial states of each layer and direction.
struct States {
  std::vector<Tensor> h, c;
};

Tensor zeros(int64_t B, int64_t columns, const at::TensorOptions& options) {
  const Tensor zeros = at::empty({B, columns}, options);  // at::zeros dispatches three times
  std::fill_n(static_cast<char*>(zeros.data_ptr()), zeros.nbytes(), char(0));
  return zeros;
}

States initial_states(const StackInputs& in) {
  if (in.hx) return {in.hx->h.unbind(), in.hx->c.unbind()};
  const int64_t B = in.x.size(1), H = in.layers[0].W_hh.size(0) / kGates, P = in.layers[0].W_hh.size(1);
  const Tensor c_0 = zeros(B, H, in.x.options()), h_0 = P == H ? c_0 : zeros(B, P, in.x.options());
  return {std::vector<Tensor>(in.layers.size(), h_0), std::vector<Tensor>(in.layers.size(), c_0)};
}

// [layers and directions, B, ...], without a copy of a single one.
Tensor stacked(const std::vector<Tensor>& states) {
  return states.size() == 1 ? states[0].unsqueeze_(0) : at::stack(states);
}

// One layer in all its directions, each with the states of the same place.
std::array<ForwardResult, 2> run_layer(const StackLayer* layers, const Tensor& x, const OptionalTensor& lengths,
                                       const Tensor* h_0, const Tensor* c_0, int64_t n_directions) {
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
                                        const Tensor* h_0, const Tensor* c_0, int64_t n_directions) {
  std::array<ForwardResult, 2> results;
  for_each_direction(n_directions, x, layers[0].W_hh, [&](int64_t k) {
    const StackLayer& of = layers[k];
    results[k] = packed[k].forward(x, h_0[k], c_0[k], of.W_ih, of.W_hh, of.b_ih, of.b_hh, /*reverse=*/k == 1);
  });
  return results;
}

}  // namespace

StackResult run_stack(const StackInputs& in, bool differentiated, const PackedLayers* packed) {
  std::optional<at::AutoDispatchBelowADInplaceOrView> no_views;
  if (!differentiated) no_views.emplace();
  const States initial = initial_states(in);
  Tensor x = in.x;
  const int64_t runs = in.layers.size(), directions = in.directions;
  std::vector<Tensor> final_h(runs), final_c(runs);
  for (int64_t first = 0; first < runs; first += directions) {
    const StackLayer* layers = in.layers.data() + first;
    const Tensor *h_0 = initial.h.data() + first, *c_0 = initial.c.data() + first;
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
