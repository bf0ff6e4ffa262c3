// The ops on CUDA tensors. A file of its own, so that backend.cpp can also be run without a GPU (tests/cuda).
#include <torch/library.h>

#include "cuda/backend.h"
#include "lstm_layer.h"

namespace rnndrop {
namespace {

cuda::CudaBackend make_backend(const at::Tensor& x) {
  // The dispatcher comes here for any CUDA argument; x's device is the one that the others are held to.
  TORCH_CHECK(x.is_cuda(), "x: expected a CUDA tensor like the other arguments, got one on ", x.device());
  return cuda::CudaBackend(x.device());
}

}  // namespace

TORCH_LIBRARY_IMPL(rnndrop, CUDA, m) {
  m.impl("lstm_layer", OpKernel<lstm_layer_forward, make_backend>::call);
  m.impl("lstm_layer_backward", OpKernel<lstm_layer_backward, make_backend>::call);
}

}  // namespace rnndrop
