#include "layer_call.h"

#define AT_PER_OPERATOR_HEADERS
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <cstring>

namespace rnndrop {
namespace {

using at::Tensor;

CheckedInputs check(const LayerInputs& given, bool reverse, const BackwardInputs& saved) {
  CheckedInputs in(given, reverse);
  const auto [T, B, I, H, P] = in.sizes;
  const auto check = [&](const char* name, const Tensor& tensor, at::ScalarType dtype,
                         std::initializer_list<at::IntArrayRef> shapes) {
    check_tensor(name, tensor, in.x, dtype, shapes);
  };
  const at::ScalarType dtype = in.x.scalar_type();
  if (saved.dy) check("dy", *saved.dy, dtype, {{T, B, P}});
  if (saved.dh_n) check("dh_n", *saved.dh_n, dtype, {{B, P}});
  if (saved.dc_n) check("dc_n", *saved.dc_n, dtype, {{B, H}});
  check("y", saved.y, dtype, {{T, B, P}});
  check("gates", saved.gates, dtype, {{T, B, 4 * H}});
  check("c", saved.c, acc_type_of(in.x), {{T + 1, B, H}});
  if (in.W_hr) {
    check("h_full", saved.h_full, dtype, {{T, B, H}});
  } else {
    check("h_full", saved.h_full, dtype, {{0}});
  }
  return in;
}

// n elements of `out` from `at` on = those of `in` from `from` on, both dense.
void copy(HostCopy host_copy, const Tensor& out, int64_t at, const Tensor& in, int64_t from, int64_t n) {
  if (n == 0) return;
  host_copy(static_cast<char*>(out.data_ptr()) + at * out.element_size(), out.scalar_type(),
            static_cast<const char*>(in.const_data_ptr()) + from * in.element_size(), in.scalar_type(), n);
}

// A dense copy in the type of `options`. Tensor::to and clone dispatch once or twice more, which a short call feels.
Tensor copy_of(const Tensor& tensor, const at::TensorOptions& options, HostCopy host_copy) {
  const Tensor out = at::empty(tensor.sizes(), options);
  if (!host_copy || !tensor.is_contiguous()) return out.copy_(tensor);
  copy(host_copy, out, 0, tensor, 0, out.numel());
  return out;
}

// The tensor itself, or a copy where it is of another type.
Tensor in_type_of(const at::TensorOptions& options, const Tensor& tensor, HostCopy host_copy) {
  return tensor.dtype() == options.dtype() ? tensor : copy_of(tensor, options, host_copy);
}

// all[k] = in
void put(const Tensor& all, int64_t k, const Tensor& in, HostCopy host_copy) {
  if (!host_copy || !in.is_contiguous()) {
    all.select(0, k).copy_(in);
    return;
  }
  copy(host_copy, all, k * in.numel(), in, 0, in.numel());
}

// all[k] = 0
void put_zeros(const Tensor& all, int64_t k, HostCopy host_copy) {
  if (!host_copy) {
    all.select(0, k).zero_();
    return;
  }
  const int64_t bytes = all.size(0) > 0 ? all.nbytes() / all.size(0) : 0;
  if (bytes > 0) std::memset(static_cast<char*>(all.data_ptr()) + k * bytes, 0, bytes);
}

// A copy of all[k] in the type of `options`.
Tensor taken(const Tensor& all, int64_t k, const at::TensorOptions& options, HostCopy host_copy) {
  const Tensor out = at::empty(all.sizes().slice(1), options);
  if (!host_copy) return out.copy_(all.select(0, k));
  copy(host_copy, out, 0, all, k * out.numel(), out.numel());
  return out;
}

// `gradient` in the type computed in, or zeros where there is none.
Tensor accumulator(const OptionalTensor& gradient, at::IntArrayRef shape, const CheckedInputs& in, HostCopy host_copy) {
  return gradient ? copy_of(*gradient, in.acc_options(), host_copy) : at::zeros(shape, in.acc_options());
}

Tensor empty_if(bool wanted, at::IntArrayRef shape, const at::TensorOptions& options) {
  return at::empty(wanted ? shape : at::IntArrayRef({0}), options);
}

}  // namespace

std::vector<Tensor> tensors_of(const ForwardResult& result) {
  return std::apply([](const auto&... tensors) { return std::vector<Tensor>{tensors...}; }, result);
}

ForwardCall::ForwardCall(const LayerInputs& given, bool reverse, bool save) : in(given, reverse), save(save) {
  const auto [T, B, I, H, P] = in.sizes;
  y = at::empty({T, B, P}, in.options());
  if (in.W_hr) h_full = at::empty({save ? T : 1, B, H}, in.options());
  if (save) gates = at::empty({T, B, 4 * H}, in.options());
  c = at::empty({save ? T + 1 : 2, B, H}, in.acc_options());
}

void ForwardCall::put_initial_state() {
  const int64_t slot = c_index(in.order.slot_before(in.order.first()));
  if (in.c_0) {
    put(c, slot, *in.c_0, host_copy);
  } else {
    put_zeros(c, slot, host_copy);
  }
  if (in.lengths || in.zone_h) h_n = in.h_0 ? in.h_0->clone() : in.initial_h(/*by_host=*/host_copy != nullptr);
}

ForwardResult ForwardCall::result() const {
  const auto nothing = [&](const at::TensorOptions& options) { return at::empty({0}, options); };
  const TimeOrder& order = in.order;
  const Tensor last_h = h_n.defined() ? h_n : taken(y, order.last(), in.options(), host_copy);
  const Tensor last_c = c_n.defined() ? c_n : taken(c, c_index(order.slot(order.last())), in.options(), host_copy);
  if (!save) return {y, last_h, last_c, nothing(in.options()), nothing(in.acc_options()), nothing(in.options())};
  return {y, last_h, last_c, gates, c, h_full.defined() ? h_full : nothing(in.options())};
}

BackwardCall::BackwardCall(const LayerInputs& given, bool reverse, const BackwardInputs& saved)
    : in(check(given, reverse, saved)),
      need_dx(saved.need_dx),
      need_dW(saved.need_dW),
      y(saved.y.contiguous()),
      gates(saved.gates.contiguous()),
      c(saved.c.contiguous()),
      dy(saved.dy),
      dh_n(contiguous(saved.dh_n)),
      dc_n(contiguous(saved.dc_n)) {
  const auto [T, B, I, H, P] = in.sizes;
  if (in.W_hr) h_full = saved.h_full;
  dx = empty_if(need_dx, {T, B, I}, in.options());
  dW_ih = empty_if(need_dW, {4 * H, I}, in.options());
  dW_hh = empty_if(need_dW, {4 * H, P}, in.options());
  dW_hr = empty_if(need_dW && in.W_hr, {P, H}, in.options());
}

void BackwardCall::make_accumulators() {
  dy = contiguous(dy);
  const auto [T, B, I, H, P] = in.sizes;
  if (!dh_n && !dc_n && P == H) {  // one fill for both: on a GPU each is a launch
    const Tensor zeros = at::zeros({2, B, H}, in.acc_options());
    dh_carry = zeros.select(0, 0);
    dc = zeros.select(0, 1);
  } else {
    dh_carry = accumulator(dh_n, {B, P}, in, host_copy);
    dc = accumulator(dc_n, {B, H}, in, host_copy);
  }
  dh_tilde = in.h_tilde_per_gate() ? at::empty({kGates, B, P}, in.options()) : at::empty({B, P}, in.options());
  db = at::empty({need_dW ? 4 * H : 0}, in.acc_options());
}

BackwardResult BackwardCall::result() const {
  const auto narrowed = [&](const Tensor& wide) { return in_type_of(in.options(), wide, host_copy); };
  const auto nothing = [&] { return at::empty({0}, in.options()); };
  const auto of_second_bias = [&] {
    if (db_hh.defined()) return db_hh;
    // Not one tensor twice: what scales or clips gradients in place would do so twice.
    return in.b_ih ? copy_of(db, in.options(), host_copy) : narrowed(db);
  };
  return {dx,
          dh_0.defined() ? dh_0 : gradient_of_h_0(),
          dc_0.defined() ? dc_0 : in.c_0 ? narrowed(dc) : nothing(),
          dW_ih,
          dW_hh,
          need_dW && in.b_ih ? narrowed(db) : nothing(),
          need_dW && in.b_hh ? of_second_bias() : nothing(),
          dW_hr};
}

Tensor BackwardCall::gradient_of_h_0() const {
  if (!in.h_0) return at::empty({0}, in.options());
  const at::ScalarType dtype = in.x.scalar_type();
  const Tensor* const mask_h = in.mask_h_of_samples();
  Tensor dh = mask_h ? dh_tilde * *mask_h : dh_tilde;
  if (in.h_tilde_per_gate()) dh = dh.sum(0);
  if (in.lengths || in.zone_h) dh = (dh.to(acc_type_of(in.x)) + dh_carry).to(dtype);
  return dh;
}

}  // namespace rnndrop
