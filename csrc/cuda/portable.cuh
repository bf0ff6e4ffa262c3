// The few things that a kernel file must spell differently from plain CUDA, so that one source goes through nvcc and,
// with -DRNNDROP_EMULATE_CUDA, through a plain C++ compiler that runs it on the CPU (tests/emulation/README.md).
//
// A kernel uses SHARED / DYN_SHARED instead of __shared__, LAUNCH instead of <<<>>>, and the functions below instead
// of inline PTX; all else is CUDA C++. Clusters need sm_90: guard a body that uses them with HAS_CLUSTERS.
#pragma once

#include <cstdint>
#include <map>
#include <utility>

#ifdef RNNDROP_EMULATE_CUDA

#include "cuda_emulation.h"

#define HAS_CLUSTERS (EMULATED_SM >= 90)
#define SHARED(name, ...) \
  static char name##_key; \
  auto& name = *static_cast<std::add_pointer_t<__VA_ARGS__>>(::emu::static_shared(&name##_key, sizeof(__VA_ARGS__)))
#define DYN_SHARED(T, name) T* name = static_cast<T*>(::emu::dynamic_shared())

using emu::ld_acquire;
using emu::ldmatrix_x2;
using emu::ldmatrix_x4;
using emu::mma_m16n8k16_bf16;
using emu::mma_m16n8k16_f16;
using emu::mma_m16n8k8_tf32;
using emu::red_release_add;
using emu::spin_pause;
using emu::to_tf32;

using emu::prefetch_to_l2;

inline void cp_async16(void* to_shared, const void* from, bool valid = true) {
  emu::copy_async(to_shared, from, 16, valid ? 16 : 0);
}
inline void cp_async_commit() { emu::commit_copies(); }
template <int kGroupsLeft>
void cp_async_wait() {
  emu::wait_for_copies(kGroupsLeft);
}

#else

#include <cooperative_groups.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define HAS_CLUSTERS 1
#else
#define HAS_CLUSTERS 0
#endif

template <class T>
using shared_type = T;
// SHARED(tile, float[16][17]) is a static array; DYN_SHARED(float, smem) points to the launch's dynamic bytes.
#define SHARED(name, ...) __shared__ shared_type<__VA_ARGS__> name
#define DYN_SHARED(T, name)                                           \
  extern __shared__ __align__(1024) unsigned char dyn_shared_bytes[]; \
  T* name = reinterpret_cast<T*>(dyn_shared_bytes)

// Ordering between blocks comes from ld_acquire and red_release_add alone: the race checker does not follow a fence
// with a relaxed atomic.
__device__ inline unsigned ld_acquire(const unsigned* address) {
  unsigned value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
  return value;
}
__device__ inline void red_release_add(unsigned* address, unsigned value) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(address), "r"(value) : "memory");
}
// Every loop that waits for another thread must call it: the emulation only changes threads where it is told to.
__device__ inline void spin_pause() {}

// What lies there comes to the second cache; nobody waits for it.
__device__ inline void prefetch_to_l2(const void* address) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(address) : "memory");
}

// 16 bytes from global to shared memory, zeros unless valid; both addresses 16-byte aligned.
__device__ inline void cp_async16(void* to_shared, const void* from, bool valid = true) {
  asm volatile(
      "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(static_cast<unsigned>(__cvta_generic_to_shared(to_shared))),
      "l"(from), "r"(valid ? 16 : 0)
      : "memory");
}
__device__ inline void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kGroupsLeft>
__device__ inline void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroupsLeft) : "memory");
}

// d[16,8] += A[16,8] B[8,8] of one warp. With g = lane / 4 and t = lane % 4:
//   d[i]  row g + 8 (i/2)  column 2t + i%2
//   a[i]  row g + 8 (i%2)  column t + 4 (i/2)
//   b[i]  row t + 4i       column g
__device__ inline void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// d[16,8] += A[16,16] B[16,8]; d as above, a and b hold two neighbours along k, the lower half first:
//   a[i]  row g + 8 (i%2)       columns 2t + 8 (i/2) + {0,1}
//   b[i]  rows 2t + 8i + {0,1}  column g
__device__ inline void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ inline void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// Four 8x8 matrices of 16-bit elements: lane i names the 16-byte row i%8 of matrix i/8;
//   r[j]  matrix j  row lane/4  columns 2 (lane%4) + {0,1}
__device__ inline void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row)))
               : "memory");
}
// The first two of them; lanes 0 to 15 name the rows.
__device__ inline void ldmatrix_x2(uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row)))
               : "memory");
}
// Rounds to nearest, ties away from zero.
__device__ inline uint32_t to_tf32(float x) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
}

#endif

namespace cg = cooperative_groups;

struct LaunchCfg {
  dim3 grid, block;
  size_t smem = 0;  // dynamic shared memory, bytes
  cudaStream_t stream = nullptr;
  bool coop = false;     // grid.sync is allowed: all blocks run at once
  unsigned cluster = 1;  // blocks in a cluster, along x; more than 1 needs sm_90
};

// What the launch asks for beyond its grid. `attributes` holds it and has to outlive the configuration.
inline cudaLaunchConfig_t launch_config(const LaunchCfg& cfg, cudaLaunchAttribute (&attributes)[2]) {
  unsigned count = 0;
  if (cfg.coop) {
    attributes[count].id = cudaLaunchAttributeCooperative;
    attributes[count++].val.cooperative = 1;
  }
  if (cfg.cluster > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count].val.clusterDim.x = cfg.cluster;
    attributes[count].val.clusterDim.y = 1;
    attributes[count++].val.clusterDim.z = 1;
  }
  // In the order of its members, one of which has a name that the emulation defines.
  return {cfg.grid, cfg.block, cfg.smem, cfg.stream, attributes, count};
}

// What a kernel may have only if it is asked for before the launch. It is asked for once for each kernel and device,
// and all that there is: a launch that asked for its own size would take the rest from one that another thread is about
// to make. What its static arrays take is in neither the kernel's limit nor in what there is to ask for.
template <class... P>
cudaError_t allow(const LaunchCfg& cfg, void (*kernel)(P...)) {
  constexpr unsigned kPortableCluster = 8;
  struct Allowed {
    size_t smem = 0;  // dynamic, bytes
    bool any_cluster = false;
  };
  thread_local std::map<std::pair<void (*)(P...), int>, Allowed> of_kernels;
  const bool wide = cfg.cluster > kPortableCluster;
  if (cfg.smem == 0 && !wide) return cudaSuccess;
  int device = 0, most = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  Allowed& allowed = of_kernels[{kernel, device}];
  if (cfg.smem > allowed.smem) {
    cudaFuncAttributes attributes;
    error = cudaFuncGetAttributes(&attributes, kernel);
    if (error != cudaSuccess) return error;
    allowed.smem = attributes.maxDynamicSharedSizeBytes;
    if (cfg.smem > allowed.smem) {
      error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
      if (error != cudaSuccess) return error;
      most -= static_cast<int>(attributes.sharedSizeBytes);
      error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most);
      if (error != cudaSuccess) return error;
      allowed.smem = most;
    }
  }
  if (wide && !allowed.any_cluster) {
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
    allowed.any_cluster = error == cudaSuccess;
  }
  return error;
}

// An error where what HAS_CLUSTERS guards is not in the kernel: on a GPU that has clusters, where the driver compiled
// the kernel from an older GPU's PTX.
template <class... P>
cudaError_t check_compiled_with_clusters(void (*kernel)(P...)) {
  constexpr int kFirstWithClusters = 90;
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
  if (error != cudaSuccess) return error;
  return attributes.ptxVersion >= kFirstWithClusters ? cudaSuccess : cudaErrorNoKernelImageForDevice;
}

// The driver could not say: it had no memory for the kernel, which it loads when it is first asked about it, or told of
// what went wrong before. That may pass.
constexpr int64_t kNoAnswer = -1;
inline bool is_refusal(cudaError_t error) {
  switch (error) {
    case cudaErrorInvalidValue:
    case cudaErrorInvalidConfiguration:
    case cudaErrorInvalidClusterSize:
    case cudaErrorInvalidDeviceFunction:
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorNotSupported:
    case cudaErrorLaunchOutOfResources: return true;
    default: return false;
  }
}

// How many clusters of a launch the current device runs at once; without clusters, how many blocks. 0 where it cannot.
// `for_sm_90`: the kernel needs what HAS_CLUSTERS guards, as it does in clusters.
template <class... P>
int64_t clusters_at_once(const LaunchCfg& cfg, void (*kernel)(P...), bool for_sm_90 = false) {
  int fitting = 0, device = 0, n_sm = 1, together = 1;
  cudaError_t error = allow(cfg, kernel);
  if (error == cudaSuccess) error = cudaGetDevice(&device);
  if (error == cudaSuccess && cfg.coop) {
    error = cudaDeviceGetAttribute(&together, cudaDevAttrCooperativeLaunch, device);
    if (error == cudaSuccess && !together) return 0;
  }
  if (error == cudaSuccess && (cfg.cluster > 1 || for_sm_90)) error = check_compiled_with_clusters(kernel);
  if (error == cudaSuccess && cfg.cluster > 1) {
    cudaLaunchAttribute attributes[2];
    LaunchCfg question = cfg;
    question.coop = false;  // nothing says that the driver answers for launches that ask for it
    const cudaLaunchConfig_t config = launch_config(question, attributes);
    error = cudaOccupancyMaxActiveClusters(&fitting, kernel, &config);
  } else if (error == cudaSuccess) {
    error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&fitting, kernel, static_cast<int>(cfg.block.x), cfg.smem);
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&n_sm, cudaDevAttrMultiProcessorCount, device);
  }
  // Only a question was asked: its error must not surface at the next launch.
  if (error != cudaSuccess) cudaGetLastError();
  if (error == cudaSuccess) return int64_t(fitting) * n_sm;
  return is_refusal(error) ? 0 : kNoAnswer;
}

inline cudaError_t set_to_zero(void* memory, size_t bytes, cudaStream_t stream) {
  return cudaMemsetAsync(memory, 0, bytes, stream);
}

template <class... P, class... A>
cudaError_t launch_kernel(const LaunchCfg& cfg, [[maybe_unused]] const char* name, void (*kernel)(P...), A... args) {
  const cudaError_t error = allow(cfg, kernel);
  if (error != cudaSuccess) return error;
  cudaLaunchAttribute attributes[2];
  const cudaLaunchConfig_t config = launch_config(cfg, attributes);
#ifdef RNNDROP_EMULATE_CUDA
  return emu::launch_kernel(config, name, kernel, args...);
#else
  return cudaLaunchKernelEx(&config, kernel, args...);
#endif
}

// LAUNCH((LaunchCfg{grid, block}), kernel, arguments...) -> cudaError_t; write (kernel<a, b>) in parentheses.
#define LAUNCH(cfg, kernel, ...) launch_kernel(cfg, #kernel, kernel, __VA_ARGS__)
