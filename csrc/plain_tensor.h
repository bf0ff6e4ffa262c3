// Tensors of the CPU or of a GPU that are what their memory holds.
#pragma once

#include <ATen/core/Tensor.h>

namespace rnndrop {

// No subclass, none of torch's wrappers and views that are not what they hold.
inline bool is_plain(const at::Tensor& tensor) {
  using c10::DispatchKey;
  constexpr c10::DispatchKeySet kPlain({DispatchKey::CPU, DispatchKey::AutogradCPU, DispatchKey::AutocastCPU,
                                        DispatchKey::CUDA, DispatchKey::AutogradCUDA, DispatchKey::AutocastCUDA,
                                        DispatchKey::ADInplaceOrView});
  return (tensor.key_set().raw_repr() & ~kPlain.raw_repr()) == 0 && !tensor._fw_grad(/*level=*/0).defined();
}

}  // namespace rnndrop
