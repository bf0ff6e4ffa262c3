#include "dropout_mask.h"

#define AT_PER_OPERATOR_HEADERS
#include <ATen/ops/empty.h>

#include <cstring>

namespace rnndrop {
namespace {

using at::Tensor;

template <class bits_t, class scalar_t>
uint64_t bits_of(double value) {
  const scalar_t rounded = static_cast<scalar_t>(value);
  bits_t bits;
  static_assert(sizeof(bits) == sizeof(rounded));
  std::memcpy(&bits, &rounded, sizeof(bits));
  return bits;
}

uint64_t bits_of(double value, at::ScalarType dtype) {
  switch (dtype) {
    case at::kDouble: return bits_of<uint64_t, double>(value);
    case at::kFloat: return bits_of<uint32_t, float>(value);
    case at::kBFloat16: return bits_of<uint16_t, c10::BFloat16>(value);
    case at::kHalf: return bits_of<uint16_t, c10::Half>(value);
    default: TORCH_CHECK_VALUE(false, "dtype: expected float64, float32, bfloat16 or float16, got ", dtype);
  }
}

// A run of what is still to be allocated.
MaskRun run_of(int64_t drop, double dropped, double kept, at::ScalarType dtype) {
  TORCH_CHECK_VALUE(0 <= drop && drop < 1 << 16, "drop: expected one of [0, 2^16), got ", drop);
  return {nullptr, 1, 0, static_cast<uint32_t>(drop), bits_of(dropped, dtype), bits_of(kept, dtype)};
}

Tensor allocate(MaskRun& run, at::IntArrayRef sizes, const at::TensorOptions& options) {
  const Tensor mask = at::empty(sizes, options);
  run.n = run.n_masks > 0 ? mask.numel() / run.n_masks : 0;
  TORCH_CHECK(run.n <= kMaxMaskEntries, "shape: expected at most 2^40 entries, got ", run.n);
  run.out = mask.mutable_data_ptr();
  return mask;
}

}  // namespace

void check_drawing_device(std::optional<c10::Device> wanted, c10::DeviceType of_generator) {
  const c10::Device device = wanted.value_or(c10::kCPU);
  TORCH_CHECK(device.type() == of_generator, "generator: expected one on ", device,
              ", where the masks are, got one on ", of_generator);
}

MaskOfSeeds::MaskOfSeeds(const Tensor& seed, at::IntArrayRef shape, int64_t drop, double dropped, double kept,
                         at::ScalarType dtype)
    : run(run_of(drop, dropped, kept, dtype)) {
  TORCH_CHECK_VALUE(seed.scalar_type() == at::kInt, "seed: expected dtype int32, got ", seed.scalar_type());
  TORCH_CHECK(seed.dim() > 0 && seed.size(-1) == 3, "seed: expected shape [..., 3], got ", seed.sizes());
  seeds = seed.contiguous();
  run.n_masks = seeds.numel() / 3;
  std::vector<int64_t> sizes = seed.sizes().vec();
  sizes.pop_back();
  sizes.insert(sizes.end(), shape.begin(), shape.end());
  mask = allocate(run, sizes, seed.options().dtype(dtype));
}

DrawnMasks::DrawnMasks(at::IntArrayRef dims, at::IntArrayRef sizes, at::IntArrayRef drop, at::ArrayRef<double> dropped,
                       at::ArrayRef<double> kept, const at::TensorOptions& options) {
  const size_t n = dims.size();
  TORCH_CHECK(drop.size() == n && dropped.size() == n && kept.size() == n,
              "expected a drop, a dropped and a kept for each of ", n, " masks");
  masks.reserve(n);
  runs.reserve(n);
  for (size_t k = 0, first = 0; k < n; first += dims[k++]) {
    TORCH_CHECK(0 <= dims[k] && first + dims[k] <= sizes.size(), "sizes: expected dims[k] of them for each mask");
    runs.push_back(run_of(drop[k], dropped[k], kept[k], options.dtype().toScalarType()));
    masks.push_back(allocate(runs[k], sizes.slice(first, dims[k]), options));
  }
}

}  // namespace rnndrop
