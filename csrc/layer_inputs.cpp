#include "layer_inputs.h"

#define AT_PER_OPERATOR_HEADERS  // else the operators alone take the compiler half a minute
#include <ATen/ops/empty.h>

#include <cstring>
#include <limits>
#include <sstream>

namespace rnndrop {
namespace {

using at::Tensor;

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

// Everything the kernels take for granted about what comes in. In most calls nothing else checks it: where this
// refuses, rnndrop_cuda.functional finds the words. So what checks.check_tensors checks, lengths' values aside, is
// checked here.
Sizes check_inputs(const LayerInputs& in) {
  const Tensor& x = in.x;
  dtype_of(x);
  TORCH_CHECK(x.dim() == 3, "x: expected shape [T, B, I], got ", x.sizes());
  TORCH_CHECK(in.W_hh.dim() == 2, "W_hh: expected shape [4H, H], got ", in.W_hh.sizes());
  const int64_t T = x.size(0), B = x.size(1), I = x.size(2), P = in.W_hh.size(1);
  const int64_t H = in.W_hr ? in.W_hh.size(0) / 4 : P;
  TORCH_CHECK(T > 0, "x: expected a sequence of at least one step, got shape ", x.sizes());
  constexpr int64_t kMostRows = std::numeric_limits<int32_t>::max();  // which the kernels count in 32 bits
  TORCH_CHECK(I <= kMostRows, "x: expected at most ", kMostRows, " features, got shape ", x.sizes());
  TORCH_CHECK(in.W_hh.size(0) <= kMostRows && P <= kMostRows, "W_hh: expected at most ", kMostRows,
              " rows and columns, got shape ", in.W_hh.sizes());
  TORCH_CHECK(H > 0 && P > 0, "W_hh: expected a hidden size of at least 1, got shape ", in.W_hh.sizes());

  const auto check = [&](const char* name, const OptionalTensor& tensor,
                         std::initializer_list<at::IntArrayRef> shapes) {
    if (tensor) check_tensor(name, *tensor, x, x.scalar_type(), shapes);
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
  if (in.lengths) check_tensor("lengths", *in.lengths, x, at::kLong, {{B}});
  return {T, B, I, H, P};
}

// [H] and [B,H] serve every step, [T,B,H] has one of its own for each.
SequenceNoise sequence_noise(const OptionalTensor& noise) {
  SequenceNoise sequence;
  if (!noise) return sequence;
  sequence.data = noise->const_data_ptr();
  if (noise->dim() == 3) sequence.step_bytes = noise->size(1) * noise->size(2) * noise->element_size();
  if (noise->dim() > 1) sequence.row_stride = noise->size(-1);
  return sequence;
}

}  // namespace

void check_tensor(const char* name, const Tensor& tensor, const Tensor& x, at::ScalarType dtype,
                  std::initializer_list<at::IntArrayRef> shapes) {
  check_like(name, tensor, x, dtype);
  check_shape(name, tensor, shapes);
}

at::ScalarType acc_type_of(const Tensor& x) { return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

Dtype dtype_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case at::kDouble: return Dtype::float64;
    case at::kFloat: return Dtype::float32;
    case at::kBFloat16: return Dtype::bfloat16;
    case at::kHalf: return Dtype::float16;
    default: TORCH_CHECK_VALUE(false, "x: expected dtype float64, float32, bfloat16 or float16, got ", x.scalar_type());
  }
}

OptionalTensor contiguous(const OptionalTensor& tensor) {
  return tensor ? OptionalTensor(tensor->contiguous()) : std::nullopt;
}

CheckedInputs::CheckedInputs(const LayerInputs& in, bool reverse)
    : sizes(check_inputs(in)),
      order{sizes.T, reverse},
      dtype(dtype_of(in.x)),
      x(in.x),
      W_ih(in.W_ih),
      W_hh(in.W_hh),
      c_0(in.c_0),
      h_0(contiguous(in.h_0)),
      b_ih(contiguous(in.b_ih)),
      b_hh(contiguous(in.b_hh)),
      W_hr(contiguous(in.W_hr)),
      mask_x(contiguous(in.mask_x)),
      mask_h(contiguous(in.mask_h)),
      mask_g(contiguous(in.mask_g)),
      mask_c(contiguous(in.mask_c)),
      zone_c(contiguous(in.zone_c)),
      zone_h(contiguous(in.zone_h)),
      lengths(contiguous(in.lengths)) {}

LayerNoise CheckedInputs::noise() const {
  return {sequence_noise(mask_g), sequence_noise(mask_c), sequence_noise(zone_c), sequence_noise(zone_h)};
}

const Tensor* CheckedInputs::mask_h_of_samples() const { return per_sample(mask_h) ? &*mask_h : nullptr; }
bool CheckedInputs::x_tilde_per_gate() const { return per_sample(mask_x) && per_gate(mask_x); }
bool CheckedInputs::h_tilde_per_gate() const { return per_sample(mask_h) && per_gate(mask_h); }

Tensor CheckedInputs::initial_h(bool by_host) const {
  if (h_0) return *h_0;
  const Tensor zeros = at::empty({sizes.B, sizes.P}, options());  // at::zeros dispatches three times
  if (!by_host) return zeros.zero_();
  if (zeros.numel() > 0) std::memset(zeros.data_ptr(), 0, zeros.nbytes());
  return zeros;
}

at::TensorOptions CheckedInputs::acc_options() const { return x.options().dtype(acc_type_of(x)); }

InputMask input_mask(const OptionalTensor& mask) { return {pointer(mask), per_sample(mask), per_gate(mask)}; }

bool per_sample(const OptionalTensor& mask) {
  return mask && (mask->dim() == 2 || (mask->dim() == 3 && mask->size(1) != 1));
}
bool per_gate(const OptionalTensor& mask) { return mask && mask->dim() == 3; }

}  // namespace rnndrop
