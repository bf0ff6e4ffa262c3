#include "cuda/mask_ops.h"

#include <ATen/cuda/CUDAGeneratorImpl.h>
#include <ATen/cuda/Exceptions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <mutex>

#include "cuda/mask_kernel.h"

namespace rnndrop::cuda {
namespace {

using at::Tensor;

// The generator's state, which goes on past what these masks take.
MaskSeeds seeds_of(const std::optional<at::Generator>& generator, c10::DeviceIndex device) {
  auto* const source =
      at::get_generator_or_default<at::CUDAGeneratorImpl>(generator, at::cuda::detail::getDefaultCUDAGenerator(device));
  constexpr uint64_t kWordsOfMask = 4;  // of each mask, whose numbers are Philox' subsequences
  const std::lock_guard<std::mutex> lock(source->mutex_);
  const at::PhiloxCudaState state = source->philox_cuda_state(kWordsOfMask);
  MaskSeeds seeds;
  if (state.captured_) {
    seeds.key_in_memory = state.seed_.ptr;
    seeds.offset_in_memory = state.offset_.ptr;
    seeds.offset = state.offset_intragraph_;
  } else {
    seeds.key = state.seed_.val;
    seeds.offset = state.offset_.val;
  }
  return seeds;
}

}  // namespace

Tensor expand_dropout_mask(c10::Device device, const Tensor& seed, at::IntArrayRef shape, int64_t drop, double dropped,
                           double kept, at::ScalarType dtype) {
  const c10::cuda::CUDAGuard guard(device);
  const MaskOfSeeds of(seed, shape, drop, dropped, kept, dtype);
  MaskSeeds seeds;
  seeds.given = of.seeds.const_data_ptr<int32_t>();
  C10_CUDA_CHECK(fill_masks(&of.run, 1, of.mask.element_size(), seeds, c10::cuda::getCurrentCUDAStream()));
  return of.mask;
}

std::vector<Tensor> draw_dropout_masks(c10::Device device, const at::TensorOptions& options, at::IntArrayRef dims,
                                       at::IntArrayRef sizes, at::IntArrayRef drop, at::ArrayRef<double> dropped,
                                       at::ArrayRef<double> kept, const std::optional<at::Generator>& generator) {
  const c10::cuda::CUDAGuard guard(device);
  DrawnMasks drawn(dims, sizes, drop, dropped, kept, options);
  const int64_t n = static_cast<int64_t>(drawn.runs.size()), entry_bytes = options.dtype().itemsize();
  if (n == 0) return {};
  C10_CUDA_CHECK(fill_masks(drawn.runs.data(), n, entry_bytes, seeds_of(generator, device.index()),
                            c10::cuda::getCurrentCUDAStream()));
  return std::move(drawn.masks);
}

}  // namespace rnndrop::cuda
