// torch's CUDA generator, as far as csrc/cuda/mask_ops.cpp asks it. What a captured graph would read from the
// device's memory lies in the generator itself.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/cuda/PhiloxCudaState.h>

#include <utility>

namespace at {

struct CUDAGeneratorImpl final : c10::GeneratorImpl {
  struct State {
    uint64_t seed = 0, offset = 0;
    bool captured = false;
  };

  CUDAGeneratorImpl() : GeneratorImpl(c10::Device(c10::kCUDA, 0), c10::DispatchKeySet(c10::DispatchKey::CUDA)) {}
  static c10::DeviceType device_type() { return c10::kCUDA; }

  PhiloxCudaState philox_cuda_state(uint64_t increment) {
    const uint64_t offset = std::exchange(state.offset, state.offset + increment);
    if (!state.captured) return {state.seed, offset};
    // As a graph's replay finds it: the offset in memory, and what the graph drew before this.
    constexpr uint64_t kDrawnBefore = 4;
    seed_in_memory = static_cast<int64_t>(state.seed);
    offset_in_memory = static_cast<int64_t>(offset - kDrawnBefore);
    return {&seed_in_memory, &offset_in_memory, kDrawnBefore};
  }

  void set_current_seed(uint64_t seed) override { state.seed = seed; }
  void set_offset(uint64_t offset) override { state.offset = offset; }
  uint64_t get_offset() const override { return state.offset; }
  uint64_t current_seed() const override { return state.seed; }
  uint64_t seed() override { return state.seed; }
  void set_state(const c10::TensorImpl&) override { TORCH_CHECK(false, "the fake generator has no state tensor"); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    TORCH_CHECK(false, "the fake generator has no state tensor");
  }

  State state;
  int64_t seed_in_memory = 0, offset_in_memory = 0;

 private:
  GeneratorImpl* clone_impl() const override { TORCH_CHECK(false, "the fake generator is not cloned"); }
};

namespace cuda::detail {
inline const Generator& getDefaultCUDAGenerator(c10::DeviceIndex) {
  static const Generator generator = make_generator<CUDAGeneratorImpl>();
  return generator;
}
}  // namespace cuda::detail

inline CUDAGeneratorImpl& default_generator() {
  return *cuda::detail::getDefaultCUDAGenerator(0).get<CUDAGeneratorImpl>();
}

}  // namespace at
