// The ops on CUDA tensors. A file of its own, so that backend.cpp can also be run without a GPU (tests/cuda).
#include <torch/library.h>

#include "cuda/backend.h"
#include "cuda/mask_ops.h"
#include "lstm_layer.h"

namespace rnndrop::cuda {
namespace {

CudaBackend make_backend(const at::Tensor& x) {
  // The dispatcher comes here for any CUDA argument; x's device is the one that the others are held to.
  TORCH_CHECK(x.is_cuda(), "x: expected a CUDA tensor like the other arguments, got one on ", x.device());
  return CudaBackend(x.device());
}

at::Tensor expand(const at::Tensor& seed, at::IntArrayRef shape, int64_t drop, double dropped, double kept,
                  at::ScalarType dtype) {
  return expand_dropout_mask(seed.device(), seed, shape, drop, dropped, kept, dtype);
}

std::vector<at::Tensor> draw(at::IntArrayRef dims, at::IntArrayRef sizes, at::IntArrayRef drop,
                             at::ArrayRef<double> dropped, at::ArrayRef<double> kept, at::ScalarType dtype,
                             std::optional<c10::Device> device, std::optional<at::Generator> generator) {
  check_drawing_device(device, c10::kCUDA);
  const bool numbered = device->has_index();
  const c10::Device gpu(c10::kCUDA, numbered ? device->index() : c10::cuda::current_device());
  const at::TensorOptions options = at::TensorOptions(gpu).dtype(dtype);
  return draw_dropout_masks(gpu, options, dims, sizes, drop, dropped, kept, generator);
}

}  // namespace

TORCH_LIBRARY_IMPL(rnndrop, CUDA, m) {
  m.impl("expand_dropout_mask", expand);
  m.impl("draw_dropout_masks", draw);
  m.impl("lstm_layer", OpKernel<lstm_layer_forward, make_backend>::call);
  m.impl("lstm_layer_backward", OpKernel<lstm_layer_backward, make_backend>::call);
}

}  // namespace rnndrop::cuda
