#include "layer_node.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>

#include <array>

#include "lstm_layer.h"

namespace rnndrop {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// An op's C++ type is its layer function's without the backend.
template <class Function>
struct WithoutBackend;
template <class Result, class... Args>
struct WithoutBackend<Result(const Backend&, Args...)> {
  using type = Result(Args...);
};

const auto& forward_op() {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("rnndrop::lstm_layer", "")
                             .typed<WithoutBackend<decltype(lstm_layer_forward)>::type>();
  return op;
}

const auto& backward_op() {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("rnndrop::lstm_layer_backward", "")
                             .typed<WithoutBackend<decltype(lstm_layer_backward)>::type>();
  return op;
}

// The op's tensor arguments in its order: those that have gradients, then the constants.
enum Argument { kX, kH0, kC0, kWih, kWhh, kBih, kBhh, kWhr, kInputs, kArguments = kInputs + 7 };
// What is saved behind them.
enum Saved { kY = kArguments, kGatesSaved, kCSaved, kHFull, kReverse };

OptionalTensor optional(const Tensor& tensor) { return tensor.defined() ? OptionalTensor(tensor) : std::nullopt; }

bool is_mapped() { return c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::FuncTorchDynamicLayerFrontMode); }

struct LayerNode : torch::autograd::Function<LayerNode> {
  static variable_list forward(AutogradContext* ctx, const Tensor& x, const Tensor& h_0, const Tensor& c_0,
                               const Tensor& W_ih, const Tensor& W_hh, const OptionalTensor& b_ih,
                               const OptionalTensor& b_hh, const OptionalTensor& W_hr, const OptionalTensor& mask_x,
                               const OptionalTensor& mask_h, const OptionalTensor& mask_g, const OptionalTensor& mask_c,
                               const OptionalTensor& zone_c, const OptionalTensor& zone_h,
                               const OptionalTensor& lengths, bool reverse) {
    const at::AutoDispatchBelowAutograd below;
    auto [y, h_n, c_n, gates, c, h_full] = forward_op().call(x, h_0, c_0, W_ih, W_hh, b_ih, b_hh, W_hr, mask_x, mask_h,
                                                             mask_g, mask_c, zone_c, zone_h, lengths, reverse, true);
    variable_list saved{x, h_0, c_0, W_ih, W_hh};
    saved.reserve(kReverse);
    for (const OptionalTensor* tensor :
         {&b_ih, &b_hh, &W_hr, &mask_x, &mask_h, &mask_g, &mask_c, &zone_c, &zone_h, &lengths}) {
      saved.push_back(tensor->value_or(Tensor()));
    }
    saved.insert(saved.end(), {y, gates, c, h_full});
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["reverse"] = reverse;
    ctx->mark_non_differentiable({gates, c, h_full});
    ctx->set_materialize_grads(false);
    return {y, h_n, c_n, gates, c, h_full};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& upstream) {
    // Read once, since a checkpoint that recomputes saved tensors hands them out only once.
    const variable_list saved = ctx->get_saved_variables();
    variable_list gradients(kArguments + 1);  // and one for `reverse`
    const OptionalTensor dy = optional(upstream[0]), dh_n = optional(upstream[1]), dc_n = optional(upstream[2]);
    if (!dy && !dh_n && !dc_n) return gradients;
    for (const OptionalTensor* gradient : {&dy, &dh_n, &dc_n}) {
      TORCH_CHECK_NOT_IMPLEMENTED(!*gradient || !(*gradient)->_fw_grad(/*level=*/0).defined(),
                                  "forward-mode derivatives, here of a backward, run with backend='python' only");
    }
    std::array<bool, kInputs> needs{};
    size_t edge = 0;  // of the arguments that are there
    for (int k = 0; k < kInputs; ++k) needs[k] = saved[k].defined() && ctx->needs_input_grad(edge++);
    bool need_dW = false;
    for (int k = kWih; k < kInputs; ++k) need_dW |= needs[k];

    // Where the gradients are to be differentiated again, or mapped, the op knows how; that takes a detour by Python.
    std::optional<at::AutoDispatchBelowAutograd> below;
    if (!at::GradMode::is_enabled() && !is_mapped()) below.emplace();
    auto [dx, dh_0, dc_0, dW_ih, dW_hh, db, dW_hr] = backward_op().call(
        saved[kX], saved[kH0], saved[kC0], saved[kWih], saved[kWhh], optional(saved[kBih]), optional(saved[kBhh]),
        optional(saved[kWhr]), optional(saved[kInputs]), optional(saved[kInputs + 1]), optional(saved[kInputs + 2]),
        optional(saved[kInputs + 3]), optional(saved[kInputs + 4]), optional(saved[kInputs + 5]),
        optional(saved[kInputs + 6]), ctx->saved_data["reverse"].toBool(), saved[kY], saved[kGatesSaved],
        saved[kCSaved], saved[kHFull], dy, dh_n, dc_n, needs[kX], need_dW);
    // Not db twice: what scales or clips gradients in place would do so twice.
    const Tensor db_hh = needs[kBih] && needs[kBhh] ? db.clone() : db;
    const std::array<Tensor, kInputs> of_inputs{dx, dh_0, dc_0, dW_ih, dW_hh, db, db_hh, dW_hr};
    for (int k = 0; k < kInputs; ++k) {
      if (needs[k]) gradients[k] = of_inputs[k];
    }
    return gradients;
  }
};

}  // namespace

bool may_be_differentiated(const LayerInputs& in) {
  if (!at::GradMode::is_enabled()) return false;
  for (const Tensor* tensor : {&in.x, &in.h_0, &in.c_0, &in.W_ih, &in.W_hh}) {
    if (tensor->requires_grad()) return true;
  }
  for (const OptionalTensor* tensor : {&in.b_ih, &in.b_hh, &in.W_hr}) {
    if (*tensor && (*tensor)->requires_grad()) return true;
  }
  return false;
}

ForwardResult lstm_layer_with_node(const LayerInputs& in, bool reverse, bool save) {
  if (save && may_be_differentiated(in)) {
    const variable_list out =
        LayerNode::apply(in.x, in.h_0, in.c_0, in.W_ih, in.W_hh, in.b_ih, in.b_hh, in.W_hr, in.mask_x, in.mask_h,
                         in.mask_g, in.mask_c, in.zone_c, in.zone_h, in.lengths, reverse);
    return {out[0], out[1], out[2], out[3], out[4], out[5]};
  }
  const at::AutoDispatchBelowAutograd below;
  return forward_op().call(in.x, in.h_0, in.c_0, in.W_ih, in.W_hh, in.b_ih, in.b_hh, in.W_hr, in.mask_x, in.mask_h,
                           in.mask_g, in.mask_c, in.zone_c, in.zone_h, in.lengths, reverse, save);
}

}  // namespace rnndrop
