// The CUDA kernels of the ops: the time loop over the CUDA backend.
#include <torch/library.h>

#include "cuda/cuda_backend.h"
#include "lstm_layer.h"

namespace rnndrop {
namespace {

cuda::CudaBackend backend_for(const at::Tensor& x) {
  // The dispatcher comes here for any CUDA argument; x's device is the one that the others are held to.
  TORCH_CHECK(x.is_cuda(), "x: expected a CUDA tensor like the other arguments, got one on ", x.device());
  return cuda::CudaBackend(x.device());
}

ForwardResult forward(const at::Tensor& x, const at::Tensor& h_0, const at::Tensor& c_0, const at::Tensor& W_ih,
                      const at::Tensor& W_hh, const OptionalTensor& b_ih, const OptionalTensor& b_hh,
                      const OptionalTensor& mask_x, const OptionalTensor& mask_h, const OptionalTensor& mask_g,
                      const OptionalTensor& lengths, bool reverse) {
  return lstm_layer_forward(backend_for(x), x, h_0, c_0, W_ih, W_hh, b_ih, b_hh, mask_x, mask_h, mask_g, lengths,
                            reverse);
}

BackwardResult backward(const OptionalTensor& dy, const OptionalTensor& dh_n, const OptionalTensor& dc_n,
                        const at::Tensor& x, const at::Tensor& h_0, const at::Tensor& W_ih, const at::Tensor& W_hh,
                        const OptionalTensor& mask_x, const OptionalTensor& mask_h, const OptionalTensor& mask_g,
                        const OptionalTensor& lengths, bool reverse, const at::Tensor& y, const at::Tensor& gates,
                        const at::Tensor& c, const at::Tensor& h_tilde, bool need_dx, bool need_dW) {
  return lstm_layer_backward(backend_for(x), dy, dh_n, dc_n, x, h_0, W_ih, W_hh, mask_x, mask_h, mask_g, lengths,
                             reverse, y, gates, c, h_tilde, need_dx, need_dW);
}

}  // namespace

TORCH_LIBRARY_IMPL(rnndrop, CUDA, m) {
  m.impl("lstm_layer", forward);
  m.impl("lstm_layer_backward", backward);
}

}  // namespace rnndrop
