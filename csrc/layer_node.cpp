#include "layer_node.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <array>

#include "directions.h"
#include "lstm_layer.h"

namespace rnndrop {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

const auto& forward_op() {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("rnndrop::lstm_layer", "").typed<OpType<lstm_layer_forward>>();
  return op;
}

const auto& backward_op() {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("rnndrop::lstm_layer_backward", "")
                             .typed<OpType<lstm_layer_backward>>();
  return op;
}

// What a direction has beside x and lengths, in the op's order: inputs that have gradients, then masks, which have
// none.
enum Input { kH0, kC0, kWih, kWhh, kBih, kBhh, kWhr, kInputs };
constexpr int kMasks = 6;
// What is saved of a direction behind them.
enum Saved { kY = kInputs + kMasks, kGatesSaved, kCSaved, kHFull, kSaved };

// Outputs of a direction that have a derivative: y, h_n and c_n.
constexpr int kOutputs = 3;

OptionalTensor optional(const Tensor& tensor) { return tensor.defined() ? OptionalTensor(tensor) : std::nullopt; }

bool is_mapped() { return c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::FuncTorchDynamicLayerFrontMode); }

ForwardResult call_op(const LayerDirection& direction, bool save) {
  const LayerInputs& in = direction.in;
  return forward_op().call(in.x, in.h_0, in.c_0, in.W_ih, in.W_hh, in.b_ih, in.b_hh, in.W_hr, in.mask_x, in.mask_h,
                           in.mask_g, in.mask_c, in.zone_c, in.zone_h, in.lengths, direction.reverse, save);
}

std::array<ForwardResult, 2> call_ops(c10::ArrayRef<LayerDirection> directions, bool save) {
  const at::AutoDispatchBelowAutograd below;
  std::array<ForwardResult, 2> results;
  const LayerInputs& first = directions[0].in;
  for_each_direction(
      directions.size(), first.x, first.W_hh, [&](int64_t k) { results[k] = call_op(directions[k], save); },
      [&](int64_t k) { return tensors_of(results[k]); });
  return results;
}

// A layer in one direction or in both. Its edges: x, then the inputs of each direction that are there. `results` gets
// what the op gives: the outputs, and beside them what has no derivative and so is none of the node's.
struct LayerNode : torch::autograd::Function<LayerNode> {
  static variable_list forward(AutogradContext* ctx, at::TensorList /*edges*/,
                               const c10::ArrayRef<LayerDirection>& directions, std::array<ForwardResult, 2>* results) {
    variable_list saved{directions[0].in.x, directions[0].in.lengths.value_or(Tensor())}, outputs;
    saved.reserve(saved.size() + directions.size() * kSaved);
    outputs.reserve(directions.size() * kOutputs);
    *results = call_ops(directions, /*save=*/true);
    for (size_t k = 0; k < directions.size(); ++k) {
      const LayerInputs& in = directions[k].in;
      const auto& [y, h_n, c_n, gates, c, h_full] = (*results)[k];
      saved.insert(saved.end(), {in.h_0.value_or(Tensor()), in.c_0.value_or(Tensor()), in.W_ih, in.W_hh});
      for (const OptionalTensor* tensor :
           {&in.b_ih, &in.b_hh, &in.W_hr, &in.mask_x, &in.mask_h, &in.mask_g, &in.mask_c, &in.zone_c, &in.zone_h}) {
        saved.push_back(tensor->value_or(Tensor()));
      }
      saved.insert(saved.end(), {y, gates, c, h_full});
      outputs.insert(outputs.end(), {y, h_n, c_n});
      ctx->saved_data[of_direction(k)] = directions[k].reverse;
    }
    ctx->save_for_backward(std::move(saved));
    ctx->set_materialize_grads(false);
    return outputs;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& upstream) {
    // Read once, since a checkpoint that recomputes saved tensors hands them out only once.
    const variable_list saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &lengths = saved[1];
    const size_t n = upstream.size() / kOutputs;
    const bool need_dx = ctx->needs_input_grad(0);
    struct Direction {
      const Tensor* saved;
      bool reverse;
      OptionalTensor dy, dh_n, dc_n;
      size_t first_edge;
      std::array<bool, kInputs> needs;
      std::array<Tensor, kInputs> gradients;
      Tensor dx;
    };
    std::array<Direction, 2> directions;
    size_t edge = 1;
    for (size_t k = 0; k < n; ++k) {
      Direction& of = directions[k];
      of.saved = saved.data() + 2 + k * kSaved;
      of.reverse = ctx->saved_data[of_direction(k)].toBool();
      of.dy = optional(upstream[k * kOutputs]);
      of.dh_n = optional(upstream[k * kOutputs + 1]);
      of.dc_n = optional(upstream[k * kOutputs + 2]);
      for (const OptionalTensor* gradient : {&of.dy, &of.dh_n, &of.dc_n}) {
        TORCH_CHECK_NOT_IMPLEMENTED(!*gradient || !(*gradient)->_fw_grad(/*level=*/0).defined(),
                                    "forward-mode derivatives, here of a backward, run with backend='python' only");
      }
      of.first_edge = edge;
      for (int i = 0; i < kInputs; ++i) of.needs[i] = of.saved[i].defined() && ctx->needs_input_grad(edge++);
    }

    const auto run = [&](int64_t k) {
      Direction& of = directions[k];
      if (!of.dy && !of.dh_n && !of.dc_n) return;
      const bool need_dW = std::any_of(of.needs.begin() + kWih, of.needs.end(), [](bool need) { return need; });
      const auto maybe = [&](int i) { return optional(of.saved[i]); };
      std::tie(of.dx, of.gradients[kH0], of.gradients[kC0], of.gradients[kWih], of.gradients[kWhh], of.gradients[kBih],
               of.gradients[kBhh], of.gradients[kWhr]) =
          backward_op().call(x, maybe(kH0), maybe(kC0), of.saved[kWih], of.saved[kWhh], maybe(kBih), maybe(kBhh),
                             maybe(kWhr), maybe(kInputs), maybe(kInputs + 1), maybe(kInputs + 2), maybe(kInputs + 3),
                             maybe(kInputs + 4), maybe(kInputs + 5), optional(lengths), of.reverse, of.saved[kY],
                             of.saved[kGatesSaved], of.saved[kCSaved], of.saved[kHFull], of.dy, of.dh_n, of.dc_n,
                             need_dx, need_dW);
    };
    // Where the gradients are to be differentiated again, or mapped, the op knows how; that takes a detour by Python.
    std::optional<at::AutoDispatchBelowAutograd> below;
    if (at::GradMode::is_enabled() || is_mapped()) {
      for (size_t k = 0; k < n; ++k) run(k);
    } else {
      below.emplace();
      for_each_direction(n, x, directions[0].saved[kWhh], run, [&](int64_t k) {
        variable_list made(directions[k].gradients.begin(), directions[k].gradients.end());
        made.push_back(directions[k].dx);
        return made;
      });
    }

    variable_list gradients(edge + 2);  // and for `directions` and `results`
    for (size_t k = 0; k < n; ++k) {
      Direction& of = directions[k];
      if (need_dx && of.dx.defined()) {
        Tensor& dx = gradients[0];
        dx = !dx.defined() ? of.dx : below ? dx.add_(of.dx) : dx + of.dx;
      }
      for (int i = 0, of_edge = of.first_edge; i < kInputs; ++i) {
        if (!of.saved[i].defined()) continue;
        if (of.needs[i]) gradients[of_edge] = of.gradients[i];
        ++of_edge;
      }
    }
    return gradients;
  }

 private:
  static const char* of_direction(size_t k) { return k == 0 ? "reverse" : "second reverse"; }
};

}  // namespace

bool may_be_differentiated(const LayerInputs& in) {
  if (!at::GradMode::is_enabled()) return false;
  if (in.x.requires_grad() || in.W_ih.requires_grad() || in.W_hh.requires_grad()) return true;
  for (const OptionalTensor* tensor : {&in.h_0, &in.c_0, &in.b_ih, &in.b_hh, &in.W_hr}) {
    if (*tensor && (*tensor)->requires_grad()) return true;
  }
  return false;
}

std::array<ForwardResult, 2> lstm_layer_with_node(c10::ArrayRef<LayerDirection> directions, bool save) {
  const auto differentiated = [](const LayerDirection& direction) { return may_be_differentiated(direction.in); };
  if (!save || !std::any_of(directions.begin(), directions.end(), differentiated)) return call_ops(directions, save);
  variable_list edges{directions[0].in.x};
  edges.reserve(1 + directions.size() * kInputs);
  for (const LayerDirection& direction : directions) {
    const LayerInputs& in = direction.in;
    // In the order of Input.
    const OptionalTensor W_ih = in.W_ih, W_hh = in.W_hh;
    for (const OptionalTensor* tensor : {&in.h_0, &in.c_0, &W_ih, &W_hh, &in.b_ih, &in.b_hh, &in.W_hr}) {
      if (*tensor) edges.push_back(**tensor);
    }
  }
  std::array<ForwardResult, 2> results;
  const variable_list outputs = LayerNode::apply(at::TensorList(edges), directions, &results);
  for (size_t k = 0; k < directions.size(); ++k) {
    auto& [y, h_n, c_n, gates, c, h_full] = results[k];
    const Tensor* of = outputs.data() + k * kOutputs;
    y = of[0], h_n = of[1], c_n = of[2];
  }
  return results;
}

}  // namespace rnndrop
