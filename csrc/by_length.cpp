#include "by_length.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <functional>
#include <numeric>

#include "permute_samples.h"

namespace rnndrop {
namespace {

using at::Tensor;

// In multiplications: to copy an element of x or y, and the calls beside.
constexpr int64_t kCopy = 32, kCalls = 1 << 19;
// The same: what a row that has ended costs the cell, which takes rows together that run.
constexpr int64_t kEndedRow = 2500;
// So many rows take as long as one: they wait for the weights.
constexpr int64_t kRowsAtTheCostOfOne = 4;

Tensor int64s(int64_t n) { return at::empty({n}, at::kLong); }

bool are_int64s(const Tensor& tensor, int64_t n) {
  return tensor.scalar_type() == at::kLong && tensor.dim() == 1 && tensor.size(0) == n && tensor.is_contiguous();
}

// What the host has written, on a device. It does not wait for the copy, as from memory that is not pinned it would.
Tensor on_device(const Tensor& written, const c10::Device& device) {
  return device.is_cpu() ? written : written.pin_memory().to(device, written.scalar_type(), /*non_blocking=*/true);
}

Tensor inverse(const Tensor& order) {
  const Tensor back = int64s(order.size(0));
  for (int64_t b = 0; b < order.size(0); ++b) back.mutable_data_ptr<int64_t>()[order.const_data_ptr<int64_t>()[b]] = b;
  return back;
}

bool are_inverse(const Tensor& order, const Tensor& back) {
  const int64_t B = order.size(0);
  for (int64_t b = 0; b < B; ++b) {
    const int64_t place = order.const_data_ptr<int64_t>()[b];
    if (place < 0 || place >= B || back.const_data_ptr<int64_t>()[place] != b) return false;
  }
  return true;
}

// Initial states and masks of these samples; what the batch shares stays.
void select_samples(StackInputs& in, const Tensor& order) {
  const int64_t B = order.size(0);
  if (in.hx) in.hx = StackState{in.hx->h.index_select(1, order), in.hx->c.index_select(1, order)};
  for (StackLayer& of : in.layers) {
    for (OptionalTensor* mask : {&of.mask_x, &of.mask_h, &of.mask_g, &of.mask_y, &of.mask_c, &of.zone_c, &of.zone_h}) {
      const bool of_samples = *mask && (*mask)->dim() > 1 && (*mask)->size(-2) == B;
      if (of_samples) *mask = (*mask)->index_select(-2, order);
    }
  }
}

}  // namespace

OptionalTensor longest_first(const Tensor& lengths, const StackSizes& stack) {
  const int64_t B = lengths.size(0), outputs = stack.directions * stack.P;
  const Tensor dense = lengths.contiguous();
  const int64_t* of = dense.const_data_ptr<int64_t>();
  const int64_t ended = stack.T * B - std::accumulate(of, of + B, int64_t(0));
  const auto of_layer = [&](int64_t inputs) { return kGates * stack.H * (inputs + stack.P) + kEndedRow; };
  const int64_t of_row = stack.directions * (of_layer(stack.I) + (stack.layers - 1) * of_layer(outputs));
  const int64_t left_out = ended * of_row / std::max<int64_t>(B, 1) * std::max<int64_t>(B - kRowsAtTheCostOfOne, 0);
  if (left_out <= kCopy * stack.T * B * (stack.I + outputs) + kCalls) return std::nullopt;
  if (std::is_sorted(of, of + B, std::greater<>())) return std::nullopt;
  const Tensor order = int64s(B);
  int64_t* samples = order.mutable_data_ptr<int64_t>();
  std::iota(samples, samples + B, int64_t(0));
  std::stable_sort(samples, samples + B, [of](int64_t a, int64_t b) { return of[a] > of[b]; });
  return order;
}

bool is_consistent(const PackedBatch& packed) {
  const int64_t T = packed.batch_sizes.dim() == 1 ? packed.T() : 0;
  if (T == 0 || !packed.batch_sizes.is_cpu() || !are_int64s(packed.batch_sizes, T) || packed.data.dim() != 2) {
    return false;
  }
  const int64_t *running = packed.batch_sizes.const_data_ptr<int64_t>(), B = packed.B();
  const bool shrinks = std::is_sorted(running, running + T, std::greater<>()) && running[T - 1] > 0;
  if (!shrinks || std::accumulate(running, running + T, int64_t(0)) != packed.data.size(0)) return false;
  const OptionalTensor &order = packed.sorted_indices, &back = packed.unsorted_indices;
  if (order.has_value() != back.has_value()) return false;
  if (!order) return true;
  // Autograd would not save what inference mode made.
  const bool may_be_saved = !order->is_inference() || c10::InferenceMode::is_enabled();
  if (!may_be_saved || !are_int64s(*order, B) || !are_int64s(*back, B)) return false;
  return !order->is_cpu() || are_inverse(*order, *back);  // nobody waits for a GPU to see them
}

SampleOrder unpack(const PackedBatch& packed, StackInputs& in) {
  const int64_t T = packed.T(), B = packed.B(), *running = packed.batch_sizes.const_data_ptr<int64_t>();
  const Tensor places = int64s(packed.data.size(0)), lengths = at::zeros({B}, at::kLong);
  int64_t *place = places.mutable_data_ptr<int64_t>(), *length = lengths.mutable_data_ptr<int64_t>();
  for (int64_t t = 0; t < T; ++t) {
    for (int64_t b = 0; b < running[t]; ++b) {
      *place++ = t * B + b;
      ++length[b];
    }
  }
  const int64_t I = packed.data.size(1);
  const c10::Device device = packed.data.device();
  const SampleOrder samples{packed.sorted_indices, packed.unsorted_indices, on_device(places, device)};
  in.x = at::zeros({T * B, I}, packed.data.options()).index_copy_(0, *samples.places, packed.data).view({T, B, I});
  in.lengths = on_device(lengths, device);
  return samples;
}

SampleOrder sort_by_length(StackInputs& in) {
  const Tensor &W_hh = in.layers[0].W_hh, &x = in.x;
  const int64_t n_layers = in.layers.size();
  const OptionalTensor order = longest_first(*in.lengths, {x.size(0), x.size(2), W_hh.size(0) / kGates, W_hh.size(1),
                                                           n_layers / in.directions, in.directions});
  if (!order) return {};
  const Tensor back = inverse(*order);
  in.x = permute_samples(x, *order, back);
  in.lengths = in.lengths->index_select(0, *order);
  return {order, back, std::nullopt};
}

StackResult run_stack(StackInputs& in, const SampleOrder& samples, bool differentiated, const PackedLayers* packed) {
  if (samples.order) select_samples(in, *samples.order);
  StackResult result = run_stack(in, differentiated, packed);
  if (samples.places) {
    result.y = result.y.flatten(0, 1).index_select(0, *samples.places);
  } else if (samples.back) {
    result.y = permute_samples(result.y, *samples.back, *samples.order);
  }
  if (samples.back) {
    StackState& final = result.final;
    final = {final.h.index_select(1, *samples.back), final.c.index_select(1, *samples.back)};
  }
  return result;
}

}  // namespace rnndrop
