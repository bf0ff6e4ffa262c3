#include "layer_stack.h"

#include <ATen/ThreadLocalState.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>

#include <algorithm>
#include <array>

#include "cpu/from_torch.h"
#include "cpu/layer_schedule.h"
#include "cpu/threads.h"
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

// Whether a layer that takes x in two directions runs them at once.
bool runs_at_once(const Tensor& x, const StackLayer& of) {
  LayerProblem layer;
  layer.T = x.size(0);
  layer.B = x.size(1);
  layer.I = x.size(2);
  layer.H = of.W_hh.size(0) / kGates;
  layer.P = of.W_hh.size(1);
  return cpu::runs_directions_at_once(layer, cpu::most_threads());
}

// run(0) and run(1), each on a thread, in the modes that this one is in.
template <class Run>
void at_once(const Run& run) {
  cpu::check_not_forked();
  const at::ThreadLocalState modes;
  cpu::parallel_for(2, 1, [&](int64_t begin, int64_t end) {
    const at::ThreadLocalStateGuard same_modes(modes);
    for (int64_t k = begin; k < end; ++k) run(k);
  });
}

ForwardResult run_layer(const StackLayer& layer, const Tensor& x, const Tensor& h_0, const Tensor& c_0, bool reverse) {
  const Tensor W_hh = layer.mask_w ? *layer.mask_w * layer.W_hh : layer.W_hh;
  const OptionalTensor no_lengths;
  const LayerInputs in{x,          h_0,          c_0,          layer.W_ih,   W_hh,         layer.b_ih,   layer.b_hh,
                       layer.W_hr, layer.mask_x, layer.mask_h, layer.mask_g, layer.mask_c, layer.zone_c, layer.zone_h,
                       no_lengths};
  return lstm_layer_with_node(in, reverse, may_be_differentiated(in));
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
    std::array<Tensor, 2> outputs;
    const auto run_direction = [&](int64_t direction) {
      const int64_t k = first + direction;
      const StackLayer& layer = in.layers[k];
      const bool reverse = direction == 1;
      auto [y, h_n, c_n, gates, c, h_full] = packed ? (*packed)[k].forward(x, initial.h[k], initial.c[k], layer.W_ih,
                                                                           layer.W_hh, layer.b_ih, layer.b_hh, reverse)
                                                    : run_layer(layer, x, initial.h[k], initial.c[k], reverse);
      outputs[direction] = layer.mask_y ? *layer.mask_y * y : y;
      final_h[k] = std::move(h_n);
      final_c[k] = std::move(c_n);
    };
    if (directions == 2 && !differentiated && runs_at_once(x, in.layers[first])) {
      at_once(run_direction);
    } else {
      for (int64_t direction = 0; direction < directions; ++direction) run_direction(direction);
    }
    x = directions == 1 ? outputs[0] : at::cat({outputs[0], outputs[1]}, -1);
  }
  // It may be changed in place before the backward, as nn.LSTM's in these cases.
  const bool alone = directions == 1 && (in.layers[0].W_hr || x.scalar_type() == at::kDouble);
  if (alone && x.requires_grad()) x = x.clone();
  return {x, {stacked(final_h), stacked(final_c)}};
}

}  // namespace rnndrop
