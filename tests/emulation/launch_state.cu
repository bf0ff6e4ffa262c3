// What a kernel may have is a state of the kernel, which all host threads share: program CASE prints the launch's
// error.
#include <cstdio>
#include <cstring>
#include <thread>

#include "portable.cuh"

namespace {

constexpr size_t kLarge = 150 << 10, kSmall = 60 << 10;

__global__ void touch_last(size_t bytes) {
  DYN_SHARED(char, smem);
  if (threadIdx.x == 0) smem[bytes - 1] = 0;
}

constexpr int kStatic = 4 << 10;

__global__ void touch_last_beside_static(size_t bytes) {
  SHARED(beside, char[kStatic]);
  DYN_SHARED(char, smem);
  if (threadIdx.x == 0) beside[kStatic - 1] = smem[bytes - 1] = 0;
}

LaunchCfg config(size_t bytes) {
  LaunchCfg cfg{dim3(1), dim3(32)};
  cfg.smem = bytes;
  return cfg;
}

cudaError_t launch(size_t bytes) { return LAUNCH(config(bytes), touch_last, bytes); }

// Between the moment when this thread has seen to its kernel's attributes and its launch, another launches it smaller.
cudaError_t with_another_thread_in_between() {
  cudaError_t others = cudaErrorUnknown;
  emu::before_next_launch = [&] { std::thread([&] { others = launch(kSmall); }).join(); };
  const cudaError_t error = launch(kLarge);
  return others == cudaSuccess ? error : others;
}

// By hand, and not undone by whoever launches the kernel.
cudaError_t with_the_limit_lowered() {
  launch(kLarge);
  cudaFuncSetAttribute(touch_last, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(kSmall));
  cudaLaunchAttribute attributes[2];
  return emu::launch_kernel(launch_config(config(kLarge), attributes), "touch_last", touch_last, kLarge);
}

// The first is within what a launch may have without asking, but not together with what is static; the second is all
// that there is beside that.
int with_a_static_array(size_t bytes) {
  emu::device.static_shared_bytes = kStatic;
  return LAUNCH(config(bytes), touch_last_beside_static, bytes);
}

// As an H100 of 132 multiprocessors runs them: a GPC of 18 or 16 holds one cluster of 16, one of 14 holds none.
int clusters_of(unsigned blocks) {
  LaunchCfg cfg = config(kLarge);
  cfg.cluster = blocks;
  return clusters_at_once(cfg, touch_last);
}

}  // namespace

int main(int, char** argv) {
  if (!std::strcmp(argv[1], "clusters")) {
    std::printf("%d %d %d\n", clusters_of(1), clusters_of(8), clusters_of(16));
    return 0;
  }
  if (!std::strcmp(argv[1], "static")) {
    const int without_asking = with_a_static_array(46 << 10);
    std::printf("%d %d\n", without_asking, with_a_static_array(emu::kMaxSharedBytes - kStatic));
    return 0;
  }
  const bool lowered = !std::strcmp(argv[1], "lowered");
  std::printf("%d\n", lowered ? with_the_limit_lowered() : with_another_thread_in_between());
  return 0;
}
