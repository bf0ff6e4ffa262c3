// What the op is given for one layer in one direction: all checks, and the inputs as a backend reads them.
#pragma once

#include <ATen/core/Tensor.h>

#include <initializer_list>
#include <optional>

#include "params.h"

namespace rnndrop {

using OptionalTensor = std::optional<at::Tensor>;

// What both ops take alike, unchecked. Sizes: T, B, I, H, and P, the width of h: that of the projection W_hr, else H.
struct LayerInputs {
  const at::Tensor& x;                             // [T,B,I]
  const OptionalTensor &h_0, &c_0;                 // [B,P], [B,H]; zeros where there is none
  const at::Tensor &W_ih, &W_hh;                   // [4H,I], [4H,P]
  const OptionalTensor &b_ih, &b_hh, &W_hr;        // [4H], [4H], [P,H]
  const OptionalTensor &mask_x, &mask_h;           // [I] or [B,I], and [P] or [B,P]; one a gate: [4,1 or B,I or P]
  const OptionalTensor &mask_g, &mask_c, &zone_c;  // [H], [B,H], and but for mask_c [T,B,H]
  const OptionalTensor& zone_h;                    // [P], [B,P] or [T,B,P]
  const OptionalTensor& lengths;                   // int64 [B]
};

struct Sizes {
  int64_t T, B, I, H, P;
};

// The inputs after all checks. Dense are those that kernels read by plain pointers whatever the engine.
struct CheckedInputs {
  // Throws what Python shows as a ValueError or RuntimeError that names the argument.
  CheckedInputs(const LayerInputs& in, bool reverse);

  LayerNoise noise() const;
  // The mask on h where each sample has its own: h is multiplied by it. One that the batch shares is folded into W_hh.
  const at::Tensor* mask_h_of_samples() const;
  // Whether a mask is both a gate's and a sample's own, so that there are four x~, or four h~.
  bool x_tilde_per_gate() const;
  bool h_tilde_per_gate() const;
  // h_0, or zeros [B,P] for a backend that reads it in any case: filled by the host, where it may, or on the stream.
  at::Tensor initial_h(bool by_host) const;
  at::TensorOptions options() const { return x.options(); }
  at::TensorOptions acc_options() const;

  Sizes sizes;
  TimeOrder order;
  Dtype dtype;
  at::Tensor x, W_ih, W_hh;  // as given, with any strides
  OptionalTensor c_0;        // likewise
  OptionalTensor h_0;        // this and all below: dense
  OptionalTensor b_ih, b_hh, W_hr, mask_x, mask_h, mask_g, mask_c, zone_c, zone_h, lengths;
};

// `tensor` is of this dtype and one of these shapes, on the device of x.
void check_tensor(const char* name, const at::Tensor& tensor, const at::Tensor& x, at::ScalarType dtype,
                  std::initializer_list<at::IntArrayRef> shapes);

at::ScalarType acc_type_of(const at::Tensor& x);
Dtype dtype_of(const at::Tensor& x);  // throws where no kernel knows it

OptionalTensor contiguous(const OptionalTensor& tensor);
inline const void* pointer(const OptionalTensor& tensor) { return tensor ? tensor->const_data_ptr() : nullptr; }
inline const int64_t* lengths_pointer(const CheckedInputs& in) {
  return static_cast<const int64_t*>(pointer(in.lengths));
}
InputMask input_mask(const OptionalTensor& mask);

// Of a mask on x or h.
bool per_sample(const OptionalTensor& mask);
bool per_gate(const OptionalTensor& mask);

}  // namespace rnndrop
