#include "cuda/gate_gemms.h"

#define AT_PER_OPERATOR_HEADERS
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <c10/util/SmallVector.h>

namespace rnndrop::cuda {

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
void weight_gradient(const Primitives& gpu, const Tensor& dW, const Tensor& da, const Tensor& in, bool accumulate) {
  if (in.dim() == 2) return gpu.gemm(dW, transposed(da), in, accumulate);
  for (int64_t gate = 0; gate < kGates; ++gate) {
    gpu.gemm(rows_of_gate(dW, gate), transposed(columns_of_gate(da, gate)), in.select(0, gate), accumulate);
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

void put_dx(const Primitives& gpu, const BackwardCall& call, const Tensor& da, const Tensor& W_ih) {
  const CheckedInputs& in = call.in;
  if (!in.x_tilde_per_gate()) return input_gradient(gpu, as_rows(call.dx), da, W_ih);
  const auto [T, B, I, H, P] = in.sizes;
  const Tensor product = at::empty({kGates, T * B, I}, in.options());
  input_gradient(gpu, product, da, W_ih);
  Tensor dx = call.dx;
  at::sum_out(dx, product.view({kGates, T, B, I}) * in.mask_x->unsqueeze(1), at::IntArrayRef({0}));
}

// y of the step before each but the first, in one piece of time: [T-1,B,P].
Tensor y_before(const BackwardCall& call) {
  return call.y.narrow(0, call.in.order.reverse ? 1 : 0, call.in.sizes.T - 1);
}
// What a sequence [T,...] has of every step but the first.
Tensor all_but_first(const Tensor& sequence, const TimeOrder& order) {
  return sequence.narrow(0, order.reverse ? 0 : 1, order.T - 1);
}

// h~ of all steps, [T*B,P] or [4,T*B,P]: h_{t-1}, masked where each sample has a mask of its own.
Tensor h_tilde(const BackwardCall& call) {
  const CheckedInputs& in = call.in;
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
  Tensor h_prev = at::empty({in.sizes.T, in.sizes.B, in.sizes.P}, in.options());
  put(all_but_first(h_prev, in.order), y_before(call));
  const Tensor of_first = h_prev.select(0, in.order.first());
  in.h_0 ? put(of_first, *in.h_0) : void(of_first.zero_());
  if (begins_at_ends) {
    // Backwards in time a sample begins at its own end; y is 0 past it.
    const Tensor next = at::arange(1, in.sizes.T + 1, in.lengths->options());
    const Tensor begins = (next.unsqueeze(1) == *in.lengths).unsqueeze(2);
    h_prev = in.h_0 ? at::where(begins, *in.h_0, h_prev) : h_prev.masked_fill(begins, 0);
  }
  if (!mask_h || masked_at_once) return h_prev.flatten(0, 1);
  return in.h_tilde_per_gate() ? (h_prev * mask_h->unsqueeze(1)).flatten(1, 2) : (h_prev * *mask_h).flatten(0, 1);
}

// h~ of all steps but the first is y of the step before: where it is no more than that, it is multiplied where it lies.
void put_dW_hh(const Primitives& gpu, const BackwardCall& call, const Tensor& da) {
  const CheckedInputs& in = call.in;
  if (in.mask_h_of_samples() || (in.lengths && in.order.reverse)) {
    return weight_gradient(gpu, call.dW_hh, as_rows(da), h_tilde(call), false);
  }
  if (in.h_0) weight_gradient(gpu, call.dW_hh, da.select(0, in.order.first()), *in.h_0, false);
  const bool accumulate = in.h_0.has_value();
  if (in.sizes.T > 1) {
    weight_gradient(gpu, call.dW_hh, as_rows(all_but_first(da, in.order)), as_rows(y_before(call)), accumulate);
  } else if (!accumulate) {
    call.dW_hh.zero_();
  }
}

}  // namespace

Tensor masked_columns(const Primitives& gpu, const Tensor& W, const OptionalTensor& mask, Dtype dtype) {
  const Tensor dense = W.contiguous();
  if (!mask || per_sample(mask)) return dense;
  const Tensor masked = at::empty(dense.sizes(), dense.options());
  gpu.mask_rows(times(dense, mask, masked), dtype);
  return masked;
}

Tensor as_rows(const Tensor& sequence) {
  const int64_t rows = sequence.size(-3) * sequence.size(-2), columns = sequence.size(-1);
  return sequence.dim() == 3 ? sequence.view({rows, columns}) : sequence.view({kGates, rows, columns});
}

void multiply_gates(const Primitives& gpu, const Tensor& a, const Tensor& in, const Tensor& W, bool accumulate) {
  if (in.dim() == 2) return gpu.gemm(a, in, transposed(W), accumulate);
  for (int64_t gate = 0; gate < kGates; ++gate) {
    gpu.gemm(columns_of_gate(a, gate), in.select(0, gate), transposed(rows_of_gate(W, gate)), accumulate);
  }
}

void input_gradient(const Primitives& gpu, const Tensor& din, const Tensor& da, const Tensor& W) {
  if (din.dim() == 2) return gpu.gemm(din, da, W, false);
  for (int64_t gate = 0; gate < kGates; ++gate) {
    gpu.gemm(din.select(0, gate), columns_of_gate(da, gate), rows_of_gate(W, gate), false);
  }
}

void project_input(const Primitives& gpu, const CheckedInputs& in, const Tensor& from_x) {
  const Tensor W_ih = masked_columns(gpu, in.W_ih, in.mask_x, in.dtype);
  multiply_gates(gpu, as_rows(from_x), as_rows(masked_input(in.x, in.mask_x)), W_ih, false);
}

void sequence_gradients(const Primitives& gpu, const BackwardCall& call, const Tensor& da) {
  const CheckedInputs& in = call.in;
  const Tensor da_rows = as_rows(da);
  c10::SmallVector<MaskedRows, kMatricesOfLaunch> matrices;  // the masks that the products leave out
  if (call.need_dx) {
    const bool is_small = call.dx.nbytes() <= kSmallBytes;
    const bool masks_dx = in.mask_x && !per_gate(in.mask_x) && (per_sample(in.mask_x) || is_small);
    put_dx(gpu, call, da_rows, masks_dx ? in.W_ih.contiguous() : masked_columns(gpu, in.W_ih, in.mask_x, in.dtype));
    if (masks_dx) matrices.push_back(times(call.dx, in.mask_x, call.dx));
  }
  if (call.need_dW) {
    Tensor x_tilde = masked_input(in.x, in.mask_x);
    if (in.lengths) x_tilde = without_ended(x_tilde, *in.lengths);
    weight_gradient(gpu, call.dW_ih, da_rows, as_rows(x_tilde), false);
    put_dW_hh(gpu, call, da);
    if (in.mask_x && !per_sample(in.mask_x)) matrices.push_back(times(call.dW_ih, in.mask_x, call.dW_ih));
    if (in.mask_h && !per_sample(in.mask_h)) matrices.push_back(times(call.dW_hh, in.mask_h, call.dW_hh));
  }
  if (call.need_db()) {
    Tensor db = call.db;
    at::sum_out(db, da_rows, at::IntArrayRef({0}), /*keepdim=*/false, db.scalar_type());
    if (call.db_hh.defined()) matrices.push_back(times(call.db, std::nullopt, call.db_hh));
  }
  if (!matrices.empty()) gpu.mask_rows(matrices, in.dtype);
}

}  // namespace rnndrop::cuda
