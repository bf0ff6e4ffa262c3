// The op `rnndrop::lstm_layer`: every check that memory safety needs, then the backend's engine for whole layers; where
// it has none for the call, the time loop over GEMM + pointwise step, written once for all backends. Of the loop:
//
//   x~_t = m_x * x_t    h~ = m_h * h_{t-1}    a_t = W_ih x~_t + W_hh h~ + b_ih + b_hh    then lstm_cell.h
//
// A mask shared by the batch (m_x[I], m_h[P]) multiplies the columns of the weight instead: the same product, and
// neither x nor h is touched; so does one a gate (m_x[4,1,I]), on the rows of its gate. A mask a sample (m_x[B,I],
// m_h[B,P]) multiplies x once, and h inside the step kernel; one a gate and sample ([4,B,I]) makes four x~ or h~, each
// with a product of its own.
#include "lstm_layer.h"

#define AT_PER_OPERATOR_HEADERS  // else the operators alone take the compiler half a minute
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <sstream>
#include <vector>

namespace rnndrop {
namespace {

using at::Tensor;

// ---------------------------------------------------------------- checks

Dtype dtype_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case at::kDouble: return Dtype::float64;
    case at::kFloat: return Dtype::float32;
    case at::kBFloat16: return Dtype::bfloat16;
    case at::kHalf: return Dtype::float16;
    default: TORCH_CHECK_VALUE(false, "x: expected dtype float64, float32, bfloat16 or float16, got ", x.scalar_type());
  }
}

at::ScalarType acc_type_of(const Tensor& x) { return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

void check_like(const char* name, const Tensor& tensor, const Tensor& x, at::ScalarType dtype) {
  TORCH_CHECK(tensor.device() == x.device(), name, ": expected a tensor on ", x.device(), " like x, got ",
              tensor.device());
  TORCH_CHECK_VALUE(tensor.scalar_type() == dtype, name, ": expected dtype ", dtype, ", got ", tensor.scalar_type());
  TORCH_CHECK(tensor.layout() == at::kStrided, name, ": expected a strided tensor, got layout ", tensor.layout());
}

void check_shape(const char* name, const Tensor& tensor, std::initializer_list<at::IntArrayRef> allowed) {
  for (const at::IntArrayRef shape : allowed) {
    if (tensor.sizes() == shape) return;
  }
  std::ostringstream expected;
  for (const at::IntArrayRef shape : allowed) expected << (expected.tellp() > 0 ? " or " : "") << shape;
  TORCH_CHECK(false, name, ": expected shape ", expected.str(), ", got ", tensor.sizes());
}

struct Sizes {
  int64_t T, B, I, H, P;
};

// Everything the kernels take for granted about what comes in. The user's own mistakes are named, in more words, by
// rnndrop_cuda.functional before they come here; this guards the op itself.
Sizes check_inputs(const LayerInputs& in) {
  const Tensor& x = in.x;
  dtype_of(x);
  TORCH_CHECK(x.dim() == 3, "x: expected shape [T, B, I], got ", x.sizes());
  TORCH_CHECK(in.W_hh.dim() == 2, "W_hh: expected shape [4H, H], got ", in.W_hh.sizes());
  const int64_t T = x.size(0), B = x.size(1), I = x.size(2), P = in.W_hh.size(1);
  const int64_t H = in.W_hr ? in.W_hh.size(0) / 4 : P;
  TORCH_CHECK(T > 0, "x: expected a sequence of at least one step, got shape ", x.sizes());
  TORCH_CHECK(H > 0 && P > 0, "W_hh: expected a hidden size of at least 1, got shape ", in.W_hh.sizes());

  const auto check = [&](const char* name, const OptionalTensor& tensor,
                         std::initializer_list<at::IntArrayRef> shapes) {
    if (!tensor) return;
    check_like(name, *tensor, x, x.scalar_type());
    check_shape(name, *tensor, shapes);
  };
  check_like("x", x, x, x.scalar_type());
  check("h_0", in.h_0, {{B, P}});
  check("c_0", in.c_0, {{B, H}});
  check("W_ih", in.W_ih, {{4 * H, I}});
  check("W_hh", in.W_hh, {{4 * H, P}});
  check("b_ih", in.b_ih, {{4 * H}});
  check("b_hh", in.b_hh, {{4 * H}});
  check("W_hr", in.W_hr, {{P, H}});
  check("mask_x", in.mask_x, {{I}, {B, I}, {4, 1, I}, {4, B, I}});
  check("mask_h", in.mask_h, {{P}, {B, P}, {4, 1, P}, {4, B, P}});
  check("mask_g", in.mask_g, {{H}, {B, H}, {T, B, H}});
  check("mask_c", in.mask_c, {{H}, {B, H}});
  check("zone_c", in.zone_c, {{H}, {B, H}, {T, B, H}});
  check("zone_h", in.zone_h, {{P}, {B, P}, {T, B, P}});
  if (in.lengths) {
    check_like("lengths", *in.lengths, x, at::kLong);
    check_shape("lengths", *in.lengths, {{B}});
  }
  return {T, B, I, H, P};
}

// ---------------------------------------------------------------- masks and the order of time

bool per_sample(const OptionalTensor& mask) {
  return mask && (mask->dim() == 2 || (mask->dim() == 3 && mask->size(1) != 1));
}
bool per_gate(const OptionalTensor& mask) { return mask && mask->dim() == 3; }

// The same as W [4H,K] for a mask that the batch shares: [K], or [4,1,K] with a row for each gate.
Tensor times_columns(const Tensor& W, const Tensor& mask) {
  return mask.dim() == 1 ? W * mask : (W.reshape({kGates, W.size(0) / kGates, W.size(1)}) * mask).view(W.sizes());
}

// W with the columns of dropped units zeroed (and the others scaled), where the mask is shared by the batch.
Tensor masked_columns(const Tensor& W, const OptionalTensor& mask) {
  return mask && !per_sample(mask) ? times_columns(W, *mask) : W.contiguous();
}

// m_x * x [T,B,I], where the mask is a sample's own; [4,T,B,I] where it is also a gate's own.
Tensor masked_input(const Tensor& x, const OptionalTensor& mask) {
  if (!per_sample(mask)) return x.contiguous();
  return (x * (per_gate(mask) ? mask->unsqueeze(1) : *mask)).contiguous();
}

// ---------------------------------------------------------------- products with all gates' weights
// "in" is x~ or h~: [M,K], or [4,M,K] where each gate has one of its own.

Tensor rows_of_gate(const Tensor& W, int64_t gate) {
  return W.narrow(0, gate * W.size(0) / kGates, W.size(0) / kGates);
}
Tensor columns_of_gate(const Tensor& a, int64_t gate) {
  return a.narrow(1, gate * a.size(1) / kGates, a.size(1) / kGates);
}

// a [M,4H] (+)= in W^T
void multiply_gates(const Backend& backend, const Tensor& a, const Tensor& in, const Tensor& W, bool accumulate) {
  if (in.dim() == 2) return backend.gemm(a, in, W.t(), accumulate);
  for (int64_t gate = 0; gate < kGates; ++gate) {
    backend.gemm(columns_of_gate(a, gate), in.select(0, gate), rows_of_gate(W, gate).t(), accumulate);
  }
}

// din = da W
void input_gradient(const Backend& backend, const Tensor& din, const Tensor& da, const Tensor& W) {
  if (din.dim() == 2) return backend.gemm(din, da, W, false);
  for (int64_t gate = 0; gate < kGates; ++gate) {
    backend.gemm(din.select(0, gate), columns_of_gate(da, gate), rows_of_gate(W, gate), false);
  }
}

// dW (+)= da^T in
void weight_gradient(const Backend& backend, const Tensor& dW, const Tensor& da, const Tensor& in, bool accumulate) {
  if (in.dim() == 2) return backend.gemm(dW, da.t(), in, accumulate);
  for (int64_t gate = 0; gate < kGates; ++gate) {
    backend.gemm(rows_of_gate(dW, gate), columns_of_gate(da, gate).t(), in.select(0, gate), accumulate);
  }
}

OptionalTensor contiguous(const OptionalTensor& tensor) {
  return tensor ? OptionalTensor(tensor->contiguous()) : std::nullopt;
}

const void* pointer(const OptionalTensor& tensor) { return tensor ? tensor->const_data_ptr() : nullptr; }

InputMask input_mask(const OptionalTensor& mask) { return {pointer(mask), per_sample(mask), per_gate(mask)}; }

// [H] and [B,H] serve every step, [T,B,H] has one of its own for each.
SequenceNoise sequence_noise(const OptionalTensor& noise) {
  if (!noise) return {nullptr, 0, 0};
  const int64_t step_bytes = noise->dim() == 3 ? noise->size(1) * noise->size(2) * noise->element_size() : 0;
  return {noise->const_data_ptr(), step_bytes, noise->dim() > 1 ? noise->size(-1) : 0};
}

// The inputs laid out as the kernels read them, and those that they read by plain pointers.
struct DenseInputs {
  explicit DenseInputs(const LayerInputs& in)
      : h_0(in.h_0.contiguous()),
        b_ih(contiguous(in.b_ih)),
        b_hh(contiguous(in.b_hh)),
        mask_x(contiguous(in.mask_x)),
        mask_h(contiguous(in.mask_h)),
        mask_g(contiguous(in.mask_g)),
        mask_c(contiguous(in.mask_c)),
        zone_c(contiguous(in.zone_c)),
        zone_h(contiguous(in.zone_h)),
        lengths(contiguous(in.lengths)) {}

  LayerNoise noise() const {
    return {sequence_noise(mask_g), sequence_noise(mask_c), sequence_noise(zone_c), sequence_noise(zone_h)};
  }
  // What an engine takes of them; x, W_ih and W_hh are dense.
  LayerProblem problem(const Sizes& sizes, const TimeOrder& order, const Tensor& x, const Tensor& W_ih,
                       const Tensor& W_hh) const {
    return {dtype_of(x),
            sizes.T,
            sizes.B,
            sizes.I,
            sizes.H,
            order,
            x.const_data_ptr(),
            h_0.const_data_ptr(),
            W_ih.const_data_ptr(),
            W_hh.const_data_ptr(),
            input_mask(mask_x),
            input_mask(mask_h),
            noise(),
            static_cast<const int64_t*>(pointer(lengths))};
  }

  // What an engine of the recurrence alone takes; W_hh has the mask that the batch shares, mask_h_rows is a sample's
  // own.
  Recurrence recurrence(const Sizes& sizes, const TimeOrder& order, const Tensor& W_hh_masked,
                        const OptionalTensor& mask_h_rows) const {
    return {dtype_of(h_0),
            sizes.B,
            sizes.H,
            order,
            {0, sizes.T},
            W_hh_masked.const_data_ptr(),
            pointer(mask_h_rows),
            noise(),
            static_cast<const int64_t*>(pointer(lengths))};
  }

  Tensor h_0;
  OptionalTensor b_ih, b_hh, mask_x, mask_h, mask_g, mask_c, zone_c, zone_h, lengths;
};

// The steps that come next in an order of time, t first among them.
Steps next_chunk(const TimeOrder& order, int64_t t, int64_t steps) {
  const int64_t left = order.reverse ? t + 1 : order.T - t, n = std::min(steps, left);
  return {order.reverse ? t - n + 1 : t, n};
}

// Rows [n*B, columns] of a chunk's steps in a tensor [T,B,columns], or [4,n*B,columns] in one [4,T,B,columns].
Tensor rows_of(const Tensor& sequence, const Steps& chunk) {
  const Tensor steps = sequence.narrow(-3, chunk.begin, chunk.n);
  const int64_t rows = chunk.n * sequence.size(-2), columns = sequence.size(-1);
  return steps.dim() == 3 ? steps.view({rows, columns}) : steps.view({kGates, rows, columns});
}

// With a projection h is made by a GEMM after the step kernel, so what noise and lengths do to h is done here.
// A projected layer is rare enough that a few small operations a step will do.
struct ProjectedState {
  const OptionalTensor &mask_h, &lengths;  // mask_h: a sample's own, or none
  const OptionalTensor& zone_h;

  Tensor zone_at(int64_t t) const { return zone_h->dim() == 3 ? zone_h->select(0, t) : *zone_h; }
  Tensor running(int64_t t) const { return lengths->gt(t).unsqueeze(1); }

  void forward(int64_t t, Tensor& y, Tensor& h_state, Tensor& h_tilde_next) const {
    if (zone_h) {
      const Tensor z = zone_at(t), h = z * h_state + (1 - z) * y;
      y.copy_(lengths ? at::where(running(t), h, at::zeros({}, h.options())) : h);
    }
    if (h_state.defined()) h_state.copy_(lengths ? at::where(running(t), y, h_state) : y);
    if (!h_tilde_next.defined()) return;
    const Tensor& h = lengths ? h_state : y;
    mask_h ? at::mul_out(h_tilde_next, h, *mask_h) : h_tilde_next.copy_(h);
  }

  // dL/dh_t for the projection of this step; carry is dL/dh that no GEMM brings, as StepBackward::dh_carry.
  Tensor backward(int64_t t, const OptionalTensor& dy, const Tensor& dh_tilde_next, Tensor& carry) const {
    Tensor dh = carry;
    if (dh_tilde_next.defined()) {
      const Tensor through_mask = mask_h ? dh_tilde_next.to(carry.scalar_type()) * *mask_h : dh_tilde_next;
      dh = dh + (through_mask.dim() == 3 ? through_mask.sum(0) : through_mask);
    }
    const Tensor total = dy ? dh + *dy : dh, zero = at::zeros({}, carry.options());
    const Tensor z = zone_h ? zone_at(t).to(carry.scalar_type()) : zero;
    carry = lengths ? at::where(running(t), z * total, dh) : z * total;
    return lengths ? at::where(running(t), (1 - z) * total, zero) : (1 - z) * total;
  }
};

}  // namespace

// ---------------------------------------------------------------- forward

ForwardResult lstm_layer_forward(const Backend& backend, const Tensor& x, const Tensor& h_0, const Tensor& c_0,
                                 const Tensor& W_ih, const Tensor& W_hh, const OptionalTensor& b_ih,
                                 const OptionalTensor& b_hh, const OptionalTensor& W_hr, const OptionalTensor& mask_x,
                                 const OptionalTensor& mask_h, const OptionalTensor& mask_g,
                                 const OptionalTensor& mask_c, const OptionalTensor& zone_c,
                                 const OptionalTensor& zone_h, const OptionalTensor& lengths, bool reverse, bool save) {
  const LayerInputs in{x,      h_0,    c_0,    W_ih,   W_hh,   b_ih,   b_hh,   W_hr,
                       mask_x, mask_h, mask_g, mask_c, zone_c, zone_h, lengths};
  const Sizes sizes = check_inputs(in);
  const auto [T, B, I, H, P] = sizes;
  const DenseInputs dense(in);
  const TimeOrder order{T, reverse};
  const int64_t steps_per_chunk = std::min(T, backend.steps_per_chunk(T, B, x.scalar_type()));
  const auto nothing = [&] { return at::empty({0}, x.options()); };

  Tensor y = at::empty({T, B, P}, x.options());
  Tensor h_full = W_hr ? at::empty({T, B, H}, x.options()) : nothing();
  Tensor gates = save ? at::empty({T, B, 4 * H}, x.options()) : nothing();
  // Without a backward to come only two states are kept, in turn: that of slot s in s % 2.
  Tensor c = at::empty({save ? T + 1 : 2, B, H}, x.options().dtype(acc_type_of(x)));
  const auto c_at = [&](int64_t slot) { return c.select(0, save ? slot : slot % 2); };
  c_at(order.slot_before(order.first())).copy_(c_0);
  Tensor h_n = lengths || zone_h ? dense.h_0.clone() : Tensor();

  const auto finish = [&]() -> ForwardResult {
    if (!h_n.defined()) h_n = y.select(0, order.last()).clone();
    const Tensor c_n = c_at(order.slot(order.last())).to(x.scalar_type(), /*non_blocking=*/false, /*copy=*/true);
    if (save) return {y, h_n, c_n, gates, c, h_full};
    return {y, h_n, c_n, nothing(), at::empty({0}, c.options()), nothing()};
  };

  if (!W_hr) {
    const Tensor x_dense = x.contiguous(), W_ih_dense = W_ih.contiguous(), W_hh_dense = W_hh.contiguous();
    LayerForward layer{dense.problem(sizes, order, x_dense, W_ih_dense, W_hh_dense)};
    layer.b_ih = pointer(dense.b_ih);
    layer.b_hh = pointer(dense.b_hh);
    layer.y = y.data_ptr();
    layer.h_n = h_n.defined() ? h_n.data_ptr() : nullptr;
    layer.gates = save ? gates.data_ptr() : nullptr;
    layer.c = c.data_ptr();
    if (backend.layer_forward(layer)) return finish();
  }

  const Tensor W_hh_masked = masked_columns(W_hh, mask_h), W_hr_t = W_hr ? W_hr->contiguous().t() : Tensor();
  const Tensor x_tilde = masked_input(x, mask_x), W_ih_masked = masked_columns(W_ih, mask_x);
  const OptionalTensor mask_h_rows = per_sample(mask_h) ? dense.mask_h : std::nullopt;
  const ProjectedState projected{mask_h_rows, dense.lengths, dense.zone_h};
  LayerNoise noise = dense.noise();
  if (W_hr) noise.zone_h = {nullptr, 0, 0};  // not the step kernel's, but ProjectedState's
  if (!save) gates = at::empty({steps_per_chunk, B, 4 * H}, x.options());
  // What the GEMM with x leaves in the gates of these steps, which lie at in_gates there: W_ih x~.
  const auto project = [&](const Steps& steps, const Steps& in_gates) {
    multiply_gates(backend, rows_of(gates, in_gates), rows_of(x_tilde, steps), W_ih_masked, false);
  };
  const bool h_tilde_per_gate = mask_h_rows && per_gate(mask_h);

  if (!W_hr && !h_tilde_per_gate && steps_per_chunk == T) {
    RecurrenceForward r{dense.recurrence(sizes, order, W_hh_masked, mask_h_rows)};
    r.b_ih = pointer(dense.b_ih);
    r.b_hh = pointer(dense.b_hh);
    r.h_begin = dense.h_0.const_data_ptr();
    r.from_x = gates.const_data_ptr();
    r.gates = save ? gates.data_ptr() : nullptr;
    r.c = c.data_ptr();
    r.y = y.data_ptr();
    r.h_n = h_n.defined() ? h_n.data_ptr() : nullptr;
    if (backend.recurrence_forward(r, x, [&](const Steps& steps) { project(steps, steps); })) return finish();
  }

  // The recurrent GEMM's input, where it is not just h_0 and y: masked, or, where y is 0 though the sample has yet to
  // begin, the h that is carried.
  const bool keeps_h_tilde = mask_h_rows || (lengths && reverse);
  Tensor h_tilde;
  if (keeps_h_tilde) h_tilde = (mask_h_rows ? dense.h_0 * *mask_h_rows : dense.h_0.clone()).contiguous();

  Steps chunk{0, 0};
  for (int64_t k = 0, t = order.first(); k < T; ++k, t = order.next(t)) {
    if (!chunk.contains(t)) {
      chunk = next_chunk(order, t, steps_per_chunk);
      project(chunk, save ? chunk : Steps{0, chunk.n});
    }
    const Tensor gates_t = gates.select(0, save ? t : t - chunk.begin);
    const Tensor h_in = keeps_h_tilde ? h_tilde : k == 0 ? dense.h_0 : y.select(0, order.before(t));
    Tensor y_t = y.select(0, t);
    const Tensor h_full_t = W_hr ? h_full.select(0, t) : y_t;
    multiply_gates(backend, gates_t, h_in, W_hh_masked, true);

    StepForward step{};
    step.dtype = dtype_of(x);
    step.B = B;
    step.H = H;
    step.t = t;
    step.b_ih = pointer(dense.b_ih);
    step.b_hh = pointer(dense.b_hh);
    step.noise = noise.at_step(t);
    step.lengths = static_cast<const int64_t*>(pointer(dense.lengths));
    step.n_h_tilde = h_tilde_per_gate ? kGates : 1;
    step.mask_h = W_hr ? nullptr : pointer(mask_h_rows);
    step.h_tilde_next = keeps_h_tilde && !W_hr ? h_tilde.data_ptr() : nullptr;
    step.h_tilde_stride = B * P;
    step.gates = gates_t.data_ptr();
    step.c_prev = c_at(order.slot_before(t)).const_data_ptr();
    step.c = c_at(order.slot(t)).data_ptr();
    step.y = h_full_t.data_ptr();
    step.h_state = h_n.defined() && !W_hr ? h_n.data_ptr() : nullptr;
    backend.step_forward(step);
    if (W_hr) {
      backend.gemm(y_t, h_full_t, W_hr_t, false);
      projected.forward(t, y_t, h_n, h_tilde);
    }
  }
  return finish();
}

// ---------------------------------------------------------------- backward

BackwardResult lstm_layer_backward(const Backend& backend, const Tensor& x, const Tensor& h_0, const Tensor& c_0,
                                   const Tensor& W_ih, const Tensor& W_hh, const OptionalTensor& b_ih,
                                   const OptionalTensor& b_hh, const OptionalTensor& W_hr, const OptionalTensor& mask_x,
                                   const OptionalTensor& mask_h, const OptionalTensor& mask_g,
                                   const OptionalTensor& mask_c, const OptionalTensor& zone_c,
                                   const OptionalTensor& zone_h, const OptionalTensor& lengths, bool reverse,
                                   const Tensor& y, const Tensor& gates, const Tensor& c, const Tensor& h_full,
                                   const OptionalTensor& dy, const OptionalTensor& dh_n, const OptionalTensor& dc_n,
                                   bool need_dx, bool need_dW) {
  const LayerInputs in{x,      h_0,    c_0,    W_ih,   W_hh,   b_ih,   b_hh,   W_hr,
                       mask_x, mask_h, mask_g, mask_c, zone_c, zone_h, lengths};
  const Sizes sizes = check_inputs(in);
  const auto [T, B, I, H, P] = sizes;
  const auto check = [&](const char* name, const Tensor& tensor, at::ScalarType dtype,
                         std::initializer_list<at::IntArrayRef> shapes) {
    check_like(name, tensor, x, dtype);
    check_shape(name, tensor, shapes);
  };
  const at::ScalarType dtype = x.scalar_type(), acc_dtype = acc_type_of(x);
  if (dy) check("dy", *dy, dtype, {{T, B, P}});
  if (dh_n) check("dh_n", *dh_n, dtype, {{B, P}});
  if (dc_n) check("dc_n", *dc_n, dtype, {{B, H}});
  check("y", y, dtype, {{T, B, P}});
  check("gates", gates, dtype, {{T, B, 4 * H}});
  check("c", c, acc_dtype, {{T + 1, B, H}});
  if (W_hr) check("h_full", h_full, dtype, {{T, B, H}});

  const DenseInputs dense(in);
  const TimeOrder order{T, reverse};
  const OptionalTensor dy_dense = contiguous(dy);
  const OptionalTensor mask_h_rows = per_sample(mask_h) ? dense.mask_h : std::nullopt;
  const Tensor gates_dense = gates.contiguous(), c_dense = c.contiguous(), y_dense = y.contiguous();
  const bool h_tilde_per_gate = mask_h_rows && per_gate(mask_h),
             x_tilde_per_gate = per_sample(mask_x) && per_gate(mask_x);

  const auto acc_options = x.options().dtype(acc_dtype);
  Tensor dh_tilde = h_tilde_per_gate ? at::empty({kGates, B, P}, x.options()) : at::empty({B, P}, x.options());
  Tensor dh_carry = at::zeros({B, P}, acc_options), dc = at::zeros({B, H}, acc_options);
  if (dh_n) dh_carry.copy_(*dh_n);
  if (dc_n) dc.copy_(*dc_n);

  const auto empty_if = [&](bool wanted, at::IntArrayRef shape) {
    return at::empty(wanted ? shape : at::IntArrayRef({0}), x.options());
  };
  Tensor dx = empty_if(need_dx, {T, B, I});
  Tensor dW_ih = empty_if(need_dW, {4 * H, I}), dW_hh = empty_if(need_dW, {4 * H, P});
  Tensor dW_hr = empty_if(need_dW && W_hr, {P, H});
  Tensor db = at::zeros({need_dW ? 4 * H : 0}, acc_options);

  const auto finish = [&]() -> BackwardResult {
    Tensor dh_0 = mask_h_rows ? dh_tilde * *mask_h_rows : dh_tilde;
    if (h_tilde_per_gate) dh_0 = dh_0.sum(0);
    if (lengths || zone_h) dh_0 = (dh_0.to(acc_dtype) + dh_carry).to(dtype);
    return {dx, dh_0, dc.to(dtype), dW_ih, dW_hh, db.to(dtype), dW_hr};
  };

  if (!W_hr) {
    const Tensor x_dense = x.contiguous(), W_ih_dense = W_ih.contiguous(), W_hh_dense = W_hh.contiguous();
    LayerBackward layer{dense.problem(sizes, order, x_dense, W_ih_dense, W_hh_dense)};
    layer.y = y_dense.const_data_ptr();
    layer.gates = gates_dense.const_data_ptr();
    layer.c = c_dense.const_data_ptr();
    layer.dy = pointer(dy_dense);
    layer.dh_carry = dh_carry.data_ptr();
    layer.dc = dc.data_ptr();
    layer.dh_tilde = dh_tilde.data_ptr();
    layer.need_dx = need_dx;
    layer.dx = dx.data_ptr();
    layer.need_dW = need_dW;
    layer.dW_ih = dW_ih.data_ptr();
    layer.dW_hh = dW_hh.data_ptr();
    layer.db = db.data_ptr();
    if (backend.layer_backward(layer)) return finish();
  }

  const Tensor W_hh_masked = masked_columns(W_hh, mask_h), W_hr_dense = W_hr ? W_hr->contiguous() : Tensor();
  const Tensor W_ih_masked = need_dx ? masked_columns(W_ih, mask_x) : Tensor();
  const Tensor x_tilde = need_dW ? masked_input(x, mask_x) : Tensor();
  const ProjectedState projected{mask_h_rows, dense.lengths, dense.zone_h};
  LayerNoise noise = dense.noise();
  if (W_hr) noise.zone_h = {nullptr, 0, 0};
  Tensor dh_projected = W_hr ? at::empty({T, B, P}, x.options()) : Tensor();  // dL/dh_t, what W_hr's GEMMs take
  Tensor dh_full = W_hr ? at::empty({B, H}, x.options()) : Tensor();

  // h~ of a chunk's steps, [n*B,P] or [4,n*B,P]: h_{t-1}, masked.
  const auto h_tilde_rows = [&](const Steps& chunk) {
    Tensor h_prev = at::empty({chunk.n, B, P}, x.options());
    const bool has_first = chunk.contains(order.first());
    const int64_t others = chunk.n - has_first, first_other = has_first && !reverse ? 1 : 0;
    h_prev.narrow(0, first_other, others).copy_(y_dense.narrow(0, order.before(chunk.begin + first_other), others));
    if (has_first) h_prev.select(0, order.first() - chunk.begin).copy_(dense.h_0);
    if (lengths && reverse) {
      // Backwards in time a sample begins at its own end; y is 0 past it.
      const Tensor next = at::arange(chunk.begin + 1, chunk.begin + chunk.n + 1, dense.lengths->options());
      h_prev = at::where((next.unsqueeze(1) == *dense.lengths).unsqueeze(2), dense.h_0, h_prev);
    }
    if (!mask_h_rows) return h_prev.flatten(0, 1);
    return h_tilde_per_gate ? (h_prev * mask_h_rows->unsqueeze(1)).flatten(1, 2)
                            : (h_prev * *mask_h_rows).flatten(0, 1);
  };

  // What the gradients of a chunk's pre-activations, da [n,B,4H], add to dx, dW_ih, dW_hh and db.
  bool accumulate = false;
  const auto finish_chunk = [&](const Steps& chunk, const Tensor& da) {
    const Tensor da_rows = da.view({chunk.n * B, 4 * H});
    if (need_dx && x_tilde_per_gate) {
      const Tensor dx_tilde = at::empty({kGates, chunk.n, B, I}, x.options());
      input_gradient(backend, dx_tilde.flatten(1, 2), da_rows, W_ih_masked);
      dx.narrow(0, chunk.begin, chunk.n).copy_((dx_tilde * mask_x->unsqueeze(1)).sum(0));
    } else if (need_dx) {
      input_gradient(backend, rows_of(dx, chunk), da_rows, W_ih_masked);
    }
    if (!need_dW) return;
    weight_gradient(backend, dW_ih, da_rows, rows_of(x_tilde, chunk), accumulate);
    weight_gradient(backend, dW_hh, da_rows, h_tilde_rows(chunk), accumulate);
    db.add_(da_rows.sum(0, /*keepdim=*/false, acc_dtype));
    accumulate = true;
  };

  const TimeOrder backwards{T, !reverse};
  const int64_t steps_per_chunk = backend.steps_per_chunk(T, B, dtype);
  const Tensor da_buffer = at::empty({std::min(steps_per_chunk, T), B, 4 * H}, x.options());
  bool recurrence_done = false;
  if (!W_hr && !h_tilde_per_gate && steps_per_chunk >= T) {
    RecurrenceBackward r{dense.recurrence(sizes, order, W_hh_masked, mask_h_rows)};
    r.gates = gates_dense.const_data_ptr();
    r.c = c_dense.const_data_ptr();
    r.dy = pointer(dy_dense);
    r.dh_carry = dh_carry.data_ptr();
    r.dc = dc.data_ptr();
    r.dh_tilde = dh_tilde.data_ptr();
    r.da = da_buffer.data_ptr();
    recurrence_done = backend.recurrence_backward(r, x);
    if (recurrence_done) finish_chunk({0, T}, da_buffer);
  }

  Steps chunk{0, 0};
  for (int64_t k = 0, t = backwards.first(); !recurrence_done && k < T; ++k, t = backwards.next(t)) {
    if (!chunk.contains(t)) chunk = next_chunk(backwards, t, steps_per_chunk);
    const Tensor da = da_buffer.narrow(0, 0, chunk.n), da_t = da.select(0, t - chunk.begin);
    const OptionalTensor dy_t = dy_dense ? OptionalTensor(dy_dense->select(0, t)) : std::nullopt;
    if (W_hr) {
      const Tensor dh_t = dh_projected.select(0, t);
      dh_t.copy_(projected.backward(t, dy_t, k > 0 ? dh_tilde : Tensor(), dh_carry));
      backend.gemm(dh_full, dh_t, W_hr_dense, false);
    }

    StepBackward step{};
    step.dtype = dtype_of(x);
    step.B = B;
    step.H = H;
    step.t = t;
    step.noise = noise.at_step(t);
    step.lengths = static_cast<const int64_t*>(pointer(dense.lengths));
    step.n_h_tilde = h_tilde_per_gate ? kGates : 1;
    step.mask_h = W_hr ? nullptr : pointer(mask_h_rows);
    step.dh_tilde_next = k > 0 && !W_hr ? dh_tilde.const_data_ptr() : nullptr;
    step.gates = gates_dense.select(0, t).const_data_ptr();
    step.c_prev = c_dense.select(0, order.slot_before(t)).const_data_ptr();
    step.c = c_dense.select(0, order.slot(t)).const_data_ptr();
    step.dy = W_hr ? dh_full.const_data_ptr() : pointer(dy_t);
    // Without lengths and zoneout only the first of these steps has a gradient to take from it: dh_n.
    step.dh_carry = (k == 0 || lengths || zone_h) && !W_hr ? dh_carry.data_ptr() : nullptr;
    step.dc = dc.data_ptr();
    step.da = da_t.data_ptr();
    backend.step_backward(step);

    input_gradient(backend, dh_tilde, da_t, W_hh_masked);
    if (t == backwards.last() || !chunk.contains(backwards.next(t))) finish_chunk(chunk, da);
  }

  if (need_dx && per_sample(mask_x) && !x_tilde_per_gate) dx.mul_(*mask_x);
  if (need_dW) {
    if (mask_x && !per_sample(mask_x)) dW_ih = times_columns(dW_ih, *mask_x);
    if (mask_h && !mask_h_rows) dW_hh = times_columns(dW_hh, *mask_h);
    if (W_hr) backend.gemm(dW_hr, rows_of(dh_projected, {0, T}).t(), rows_of(h_full.contiguous(), {0, T}), false);
  }
  return finish();
}

}  // namespace rnndrop
