// CUDA C++ for a plain C++ compiler: CUDA's names on top of the runtime in runtime/. README.md has the rules.
//
// Kernel files do not include this; csrc/cuda/portable.cuh does, under RNNDROP_EMULATE_CUDA. Tests include it to
// choose a schedule: emu::config.set_schedule("rand1").
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "runtime/async.h"
#include "runtime/atomics.h"
#include "runtime/barriers.h"
#include "runtime/driver.h"
#include "runtime/memory.h"
#include "runtime/scheduler.h"
#include "runtime/tensor_cores.h"
#include "runtime/warp.h"
#include "runtime/weak_hooks.h"

// ---- declarations

#undef __global__
#undef __device__
#undef __host__
#undef __constant__
#undef __shared__
#undef __forceinline__
#undef __noinline__
#undef __launch_bounds__
#undef __cluster_dims__
#undef __grid_constant__
#define __global__
#define __device__
#define __host__
#define __constant__
#define __shared__ emulation_error_use_SHARED_or_DYN_SHARED
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __grid_constant__

#define threadIdx (::emu::thread_index())
#define blockIdx (::emu::block_index())
#define blockDim (::emu::block_dim())
#define gridDim (::emu::grid_dim())
#define warpSize 32

// ---- barriers and warp collectives

inline void __syncthreads(emu::Caller at = emu::Caller::here()) { emu::sync_block(at); }
inline void __syncwarp(unsigned mask = ~0u, emu::Caller at = emu::Caller::here()) { emu::sync_warp(mask, at); }
// The race checker does not follow it, see README.md.
inline void __threadfence() {
  emu::release_block();
  emu::acquire_block();
}

// In a shuffle of width w a lane only reads within its own group of w lanes; beyond that it keeps its value.
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, emu::Caller at = emu::Caller::here()) {
  const int group = emu::lane() & ~(width - 1);
  return emu::shuffle(mask, value, group | (source & (width - 1)), "__shfl_sync", at);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, emu::Caller at = emu::Caller::here()) {
  const int lane = emu::lane(), source = lane ^ bits;
  return emu::shuffle(mask, value, source / width > lane / width ? -1 : source, "__shfl_xor_sync", at);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, emu::Caller at = emu::Caller::here()) {
  const int lane = emu::lane(), source = lane + static_cast<int>(delta);
  return emu::shuffle(mask, value, source / width == lane / width ? source : -1, "__shfl_down_sync", at);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, emu::Caller at = emu::Caller::here()) {
  const int lane = emu::lane(), source = lane - static_cast<int>(delta);
  const bool within = source >= 0 && source / width == lane / width;
  return emu::shuffle(mask, value, within ? source : -1, "__shfl_up_sync", at);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, emu::Caller at = emu::Caller::here()) {
  return emu::ballot(mask, predicate, "__ballot_sync", at);
}
inline int __any_sync(unsigned mask, int predicate, emu::Caller at = emu::Caller::here()) {
  return emu::ballot(mask, predicate, "__any_sync", at) != 0;
}
inline int __all_sync(unsigned mask, int predicate, emu::Caller at = emu::Caller::here()) {
  return emu::ballot(mask, !predicate, "__all_sync", at) == 0;
}

namespace cooperative_groups {

struct thread_block {
  void sync(emu::Caller at = emu::Caller::here()) const { emu::sync_block(at); }
};
struct grid_group {
  void sync(emu::Caller at = emu::Caller::here()) const { emu::sync_grid(at); }
};
struct cluster_group {
  void sync(emu::Caller at = emu::Caller::here()) const { emu::sync_cluster(at); }
  void barrier_arrive(emu::Caller at = emu::Caller::here()) const { emu::arrive_at_cluster(at); }
  void barrier_wait(emu::Caller at = emu::Caller::here()) const { emu::wait_for_cluster(at); }
  unsigned num_blocks() const { return emu::running->launch.cluster; }
  unsigned block_rank() const { return blockIdx.x % num_blocks(); }  // clusters lie along x
  template <class T>
  T* map_shared_rank(T* address, unsigned rank, emu::Caller at = emu::Caller::here()) const {
    return static_cast<T*>(emu::map_shared(address, rank, at));
  }
};
inline thread_block this_thread_block() { return {}; }
inline grid_group this_grid() { return {}; }
inline cluster_group this_cluster() { return {}; }

}  // namespace cooperative_groups

// ---- memory

template <class T>
T __ldg(const T* address) {
  return *address;
}
template <class T>
T __ldcg(const T* address) {
  return *address;
}
template <class T>
void __stcg(T* address, T value) {
  *address = value;
}

template <class T>
T atomicAdd(T* address, std::common_type_t<T> value) {
  return emu::read_modify_write(address, [=](T old) { return static_cast<T>(old + value); });
}
template <class T>
T atomicMax(T* address, std::common_type_t<T> value) {
  return emu::read_modify_write(address, [=](T old) { return std::max(old, value); });
}
template <class T>
T atomicExch(T* address, std::common_type_t<T> value) {
  return emu::read_modify_write(address, [=](T) { return value; });
}
template <class T>
T atomicCAS(T* address, std::common_type_t<T> expected, std::common_type_t<T> value) {
  return emu::read_modify_write(address, [=](T old) { return old == expected ? value : old; });
}

// ---- arithmetic

using std::max;
using std::min;

inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline float __saturatef(float x) { return x > 0 ? min(x, 1.f) : 0.f; }  // NaN gives 0
inline unsigned __float_as_uint(float x) {
  unsigned bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline float __uint_as_float(unsigned bits) { return emu::bits_to_float(bits); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
