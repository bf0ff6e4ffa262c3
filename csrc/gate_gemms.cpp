#include "gate_gemms.h"

#define AT_PER_OPERATOR_HEADERS
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <c10/util/SmallVector.h>

namespace rnndrop {

using at::Tensor;

namespace {

Tensor rows_of_gate(const Tensor& W, int64_t gate) {
  return W.narrow(0, gate * W.size(0) / kGates, W.size(0) / kGates);
}
Tensor columns_of_gate(const Tensor& a, int64_t gate) {
  return a.narrow(1, gate * a.size(1) / kGates, a.size(1) / kGates);
}

// As Tensor::t(), which dispatches twice more.
Tensor transposed(const Tensor& matrix) {
  return matrix.as_strided({matrix.size(1), matrix.size(0)}, {matrix.stride(1), matrix.stride(0)});
}

// dW (+)= da^T in
void weight_gradient(const Primitives& backend, const Tensor& dW, const Tensor& da, const Tensor& in, bool accumulate) {
  if (in.dim() == 2) return backend.gemm(dW, transposed(da), in, accumulate);
  for (int64_t gate = 0; gate < kGates; ++gate) {
    backend.gemm(rows_of_gate(dW, gate), transposed(columns_of_gate(da, gate)), in.select(0, gate), accumulate);
  }
}

// All rows of `in` times a mask on its columns.
MaskedRows times(const Tensor& in, const OptionalTensor& mask, const Tensor& out) {
  MaskedRows matrix;
  matrix.in = in.const_data_ptr();
  matrix.out = out.data_ptr();
  matrix.columns = in.size(-1);
  matrix.rows = matrix.columns > 0 ? in.numel() / matrix.columns : 0;
  matrix.mask = pointer(mask);
  if (per_gate(mask)) {
    matrix.masks = kGates;
    matrix.rows_of_mask = matrix.rows / kGates;
  } else if (per_sample(mask)) {
    matrix.masks = mask->size(0);
  }
  return matrix;
}

// x~ = m_x * x [T,B,I] where each sample has a mask of its own; [4,T,B,I] where also each gate has one. Else x. Dense.
Tensor masked_input(const Tensor& x, const OptionalTensor& mask) {
  if (!per_sample(mask)) return x.contiguous();
  return (x * (per_gate(mask) ? mask->unsqueeze(1) : *mask)).contiguous();
}

// x~ with zeros where a sample has ended: da is 0 there, but x may be anything.
Tensor without_ended(const Tensor& x_tilde, const Tensor& lengths) {
  const Tensor t = at::arange(x_tilde.size(-3), lengths.options());
  return at::where((t.unsqueeze(1) < lengths).unsqueeze(2), x_tilde, at::zeros({}, x_tilde.options()));
}

// A dx that is masked behind its product is read and written once more; W_ih before it would be one more launch, which
// takes as long as some megabytes.
constexpr size_t kSmallBytes = size_t{8} << 20;

}  // namespace

Tensor masked_columns(const Primitives& backend, const Tensor& W, const OptionalTensor& mask, Dtype dtype) {
  const Tensor dense = W.contiguous();
  if (!mask || per_sample(mask)) return dense;
  const Tensor masked = at::empty(dense.sizes(), dense.options());
  backend.mask_rows(times(dense, mask, masked), dtype);
  return masked;
}

Tensor rows_of(const Tensor& sequence, const Steps& steps) {
  const Tensor part = steps.n == sequence.size(-3) ? sequence : sequence.narrow(-3, steps.begin, steps.n);
  const int64_t rows = steps.n * sequence.size(-2), columns = sequence.size(-1);
  return part.dim() == 3 ? part.view({rows, columns}) : part.view({kGates, rows, columns});
}

void multiply_gates(const Primitives& backend, const Tensor& a, const Tensor& in, const Tensor& W, bool accumulate) {
  if (in.dim() == 2) return backend.gemm(a, in, transposed(W), accumulate);
  for (int64_t gate = 0; gate < kGates; ++gate) {
    backend.gemm(columns_of_gate(a, gate), in.select(0, gate), transposed(rows_of_gate(W, gate)), accumulate);
  }
}

void input_gradient(const Primitives& backend, const Tensor& din, const Tensor& da, const Tensor& W) {
  if (din.dim() == 2) return backend.gemm(din, da, W, false);
  for (int64_t gate = 0; gate < kGates; ++gate) {
    backend.gemm(din.select(0, gate), columns_of_gate(da, gate), rows_of_gate(W, gate), false);
  }
}

InputProjection::InputProjection(const CheckedInputs& in, const Primitives& backend)
    : backend_(backend),
      x_tilde_(masked_input(in.x, in.mask_x)),
      W_ih_(masked_columns(backend, in.W_ih, in.mask_x, in.dtype)) {}

void InputProjection::project(const Steps& steps, const Tensor& from_x) const {
  multiply_gates(backend_, rows_of(from_x, {0, steps.n}), rows_of(x_tilde_, steps), W_ih_, false);
}

SequenceGradients::SequenceGradients(const BackwardCall& call, const Primitives& backend)
    : call_(call), backend_(backend) {
  const CheckedInputs& in = call.in;
  if (call.need_dW) {
    x_tilde_ = masked_input(in.x, in.mask_x);
    if (in.lengths) x_tilde_ = without_ended(x_tilde_, *in.lengths);
  }
  if (!call.need_dx) return;
  const bool is_small = call.dx.nbytes() <= kSmallBytes;
  masks_dx_ = in.mask_x && !per_gate(in.mask_x) && (per_sample(in.mask_x) || is_small);
  W_ih_ = masks_dx_ ? in.W_ih.contiguous() : masked_columns(backend, in.W_ih, in.mask_x, in.dtype);
}

void SequenceGradients::add(const Steps& steps, const Tensor& da) {
  const Tensor da_rows = rows_of(da, {0, steps.n});
  if (call_.need_dx) add_dx(steps, da_rows);
  if (!call_.need_dW) return;
  weight_gradient(backend_, call_.dW_ih, da_rows, rows_of(x_tilde_, steps), accumulate_);
  add_dW_hh(steps, da);
  if (call_.need_db()) add_db(da_rows);
  accumulate_ = true;
}

void SequenceGradients::add_db(const Tensor& da_rows) const {
  Tensor db = call_.db;
  if (accumulate_) {
    db.add_(da_rows.sum(0, /*keepdim=*/false, db.scalar_type()));
  } else {
    at::sum_out(db, da_rows, at::IntArrayRef({0}), /*keepdim=*/false, db.scalar_type());
  }
}

void SequenceGradients::add_dx(const Steps& steps, const Tensor& da_rows) const {
  const CheckedInputs& in = call_.in;
  if (!in.x_tilde_per_gate()) return input_gradient(backend_, rows_of(call_.dx, steps), da_rows, W_ih_);
  const auto [T, B, I, H, P] = in.sizes;
  const Tensor product = at::empty({kGates, steps.n * B, I}, in.options());
  input_gradient(backend_, product, da_rows, W_ih_);
  const Tensor masked = product.view({kGates, steps.n, B, I}) * in.mask_x->unsqueeze(1);
  call_.dx.narrow(0, steps.begin, steps.n).copy_(masked.sum(0));
}

void SequenceGradients::finish() const {
  const CheckedInputs& in = call_.in;
  c10::SmallVector<MaskedRows, 4> matrices;
  if (masks_dx_) matrices.push_back(times(call_.dx, in.mask_x, call_.dx));
  if (call_.need_dW) {
    if (in.mask_x && !per_sample(in.mask_x)) matrices.push_back(times(call_.dW_ih, in.mask_x, call_.dW_ih));
    if (in.mask_h && !per_sample(in.mask_h)) matrices.push_back(times(call_.dW_hh, in.mask_h, call_.dW_hh));
    if (call_.db_hh.defined()) matrices.push_back(times(call_.db, std::nullopt, call_.db_hh));
  }
  if (!matrices.empty()) backend_.mask_rows(matrices, in.dtype);
}

// h~ of all steps but the first is y of the step before: where it is no more than that, it is multiplied where it lies.
void SequenceGradients::add_dW_hh(const Steps& steps, const Tensor& da) const {
  const CheckedInputs& in = call_.in;
  if (in.mask_h_of_samples() || (in.lengths && in.order.reverse)) {
    return weight_gradient(backend_, call_.dW_hh, rows_of(da, {0, steps.n}), h_tilde(steps), accumulate_);
  }
  const auto [has_first, first, others] = places_of(steps);
  bool accumulate = accumulate_;
  if (has_first && in.h_0) {
    weight_gradient(backend_, call_.dW_hh, da.select(0, first), *in.h_0, accumulate);
    accumulate = true;
  }
  if (others.n == 0) {
    if (!accumulate) call_.dW_hh.zero_();
    return;
  }
  const Steps before{in.order.before(steps.begin + others.begin), others.n};
  weight_gradient(backend_, call_.dW_hh, rows_of(da, others), rows_of(call_.y, before), accumulate);
}

SequenceGradients::Places SequenceGradients::places_of(const Steps& steps) const {
  const TimeOrder& order = call_.in.order;
  const bool has_first = steps.contains(order.first());
  return {has_first, order.first() - steps.begin, {has_first && !order.reverse ? 1 : 0, steps.n - has_first}};
}

// h~ of these steps, [n*B,P] or [4,n*B,P]: h_{t-1}, masked where each sample has a mask of its own.
Tensor SequenceGradients::h_tilde(const Steps& steps) const {
  const CheckedInputs& in = call_.in;
  const auto [has_first, first, others] = places_of(steps);
  const Tensor* const mask_h = in.mask_h_of_samples();
  const bool begins_at_ends = in.lengths && in.order.reverse;
  // Masked as it is written: no pass for the copy alone.
  const bool masked_at_once = mask_h && !in.h_tilde_per_gate() && !begins_at_ends;
  const auto put = [&](Tensor out, const Tensor& from) {
    if (masked_at_once) {
      at::mul_out(out, from, *mask_h);
    } else {
      out.copy_(from);
    }
  };
  Tensor h_prev = at::empty({steps.n, in.sizes.B, in.sizes.P}, in.options());
  const int64_t before = in.order.before(steps.begin + others.begin);
  put(h_prev.narrow(0, others.begin, others.n), call_.y.narrow(0, before, others.n));
  if (has_first) {
    const Tensor of_first = h_prev.select(0, first);
    in.h_0 ? put(of_first, *in.h_0) : void(of_first.zero_());
  }
  if (begins_at_ends) {
    // Backwards in time a sample begins at its own end; y is 0 past it.
    const Tensor next = at::arange(steps.begin + 1, steps.begin + steps.n + 1, in.lengths->options());
    const Tensor begins = (next.unsqueeze(1) == *in.lengths).unsqueeze(2);
    h_prev = in.h_0 ? at::where(begins, *in.h_0, h_prev) : h_prev.masked_fill(begins, 0);
  }
  if (!mask_h || masked_at_once) return h_prev.flatten(0, 1);
  return in.h_tilde_per_gate() ? (h_prev * mask_h->unsqueeze(1)).flatten(1, 2) : (h_prev * *mask_h).flatten(0, 1);
}

}  // namespace rnndrop
