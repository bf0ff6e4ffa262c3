// The ops that make masks of any size out of a few random numbers: schemas and checks. A device only fills what is
// allocated here (cpu/dropout_mask.cpp, cuda/mask_ops.cpp), by the arithmetic of mask_bits.h.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

#include "mask_bits.h"

namespace rnndrop {

// seed int32 [*, 3] -> dtype [*, shape]: a mask for each seed, its entries `dropped` with probability drop / 2^16,
// else `kept`. A function of its arguments alone: the same bits on the CPU and on CUDA, on any number of threads and
// with any vectors.
inline constexpr const char* kDropoutMaskSchema =
    "expand_dropout_mask(Tensor seed, SymInt[] shape, int drop, float dropped, float kept, ScalarType dtype) -> Tensor";

// Several masks, on the CPU where no device is named: dims[k] of the sizes are mask k's. One call, since a small layer
// feels each. Every mask has a seed of its own, on the CPU as torch.randint(-2^31, 2^31, (3,), dtype=int32) draws it,
// on CUDA by philox_mask_seed of the generator's state.
inline constexpr const char* kDrawDropoutMasksSchema =
    "draw_dropout_masks(int[] dims, int[] sizes, int[] drop, float[] dropped, float[] kept, ScalarType dtype, "
    "Device? device=None, Generator? generator=None) -> Tensor[]";

using DrawDropoutMasks = std::vector<at::Tensor>(at::IntArrayRef dims, at::IntArrayRef sizes, at::IntArrayRef drop,
                                                 at::ArrayRef<double> dropped, at::ArrayRef<double> kept,
                                                 at::ScalarType dtype, std::optional<c10::Device> device,
                                                 std::optional<at::Generator> generator);

// The dispatcher finds a kernel by the generator's device, where there is one: throws if masks are wanted on another.
void check_drawing_device(std::optional<c10::Device> wanted, c10::DeviceType of_generator);

// What expand_dropout_mask returns, to be filled; checked.
struct MaskOfSeeds {
  MaskOfSeeds(const at::Tensor& seed, at::IntArrayRef shape, int64_t drop, double dropped, double kept,
              at::ScalarType dtype);

  at::Tensor seeds;  // [n_masks, 3], dense
  at::Tensor mask;
  MaskRun run;
};

// What draw_dropout_masks returns, to be filled; checked. A run of one mask for each.
struct DrawnMasks {
  DrawnMasks(at::IntArrayRef dims, at::IntArrayRef sizes, at::IntArrayRef drop, at::ArrayRef<double> dropped,
             at::ArrayRef<double> kept, const at::TensorOptions& options);

  std::vector<at::Tensor> masks;
  std::vector<MaskRun> runs;
};

}  // namespace rnndrop
