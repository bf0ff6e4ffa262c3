// The host's side of the machine, as CUDA's runtime API has it: a kernel's attributes, which stay as they were last
// set whoever sets them, and how many of its blocks fit on the device.
#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <mutex>
#include <tuple>
#include <utility>
#include <vector>

#include "scheduler.h"

namespace emu {

constexpr int kSharedBytesWithoutAsking = 48 << 10;
constexpr unsigned kPortableClusterBlocks = 8;
constexpr int kMultiprocessorRegisters = 65536;

// The emulated GPU, or what a test makes of it.
struct Device {
  int major = EMULATED_SM / 10;
  int shared_bytes = kMaxSharedBytes;  // of a block
  // Multiprocessors of each GPC; a cluster lies within one.
  std::vector<int> gpcs =
      kHopper ? std::vector<int>{18, 18, 18, 16, 16, 16, 16, 14} : std::vector<int>{16, 16, 16, 16, 16, 14, 14};
  int ptx_version = EMULATED_SM;     // of the PTX, or source, that its code was compiled from
  int registers = 128;               // of a thread of any kernel
  int static_shared_bytes = 0;       // of a block of any kernel
  cudaError_t answer = cudaSuccess;  // to a question about a kernel
  bool cooperative = true;           // it launches blocks that run together
};

inline Device device;

struct Function {
  int dynamic_shared_bytes = kSharedBytesWithoutAsking - device.static_shared_bytes;
  bool any_cluster = false;
};

inline std::mutex functions_mutex;
inline std::map<const void*, Function> functions;
// Called once, before the next launch looks at its kernel's attributes: what another host thread does just then.
inline std::function<void()> before_next_launch;
// Called at each launch, which it may refuse.
inline std::function<cudaError_t(const Launch&)> on_launch;
// Where a stream's work comes late: what keeps it, with the stream, until then.
inline std::function<void(cudaStream_t, std::function<void()>)> later;

inline Function attributes_of(const void* kernel) {
  std::lock_guard<std::mutex> lock(functions_mutex);
  return functions[kernel];
}

EMU_UNCHECKED inline void count_question() { ++stats.driver_questions; }

inline cudaError_t get_device(int* number) {
  *number = 0;
  return cudaSuccess;
}

inline cudaError_t get_attribute(int* value, cudaDeviceAttr attribute, int /*device*/) {
  count_question();
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = device.major; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = device.shared_bytes; return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
      *value = 0;
      for (const int n : device.gpcs) *value += n;
      return cudaSuccess;
    case cudaDevAttrCooperativeLaunch: *value = device.cooperative; return cudaSuccess;
    default: return cudaErrorInvalidValue;
  }
}

template <class... P>
cudaError_t get_function_attributes(cudaFuncAttributes* attributes, void (*kernel)(P...)) {
  count_question();
  if (device.answer != cudaSuccess) return device.answer;
  *attributes = {};
  attributes->ptxVersion = device.ptx_version;
  attributes->binaryVersion = 10 * device.major;
  attributes->sharedSizeBytes = device.static_shared_bytes;
  attributes->maxDynamicSharedSizeBytes = attributes_of(reinterpret_cast<const void*>(kernel)).dynamic_shared_bytes;
  return cudaSuccess;
}

template <class... P>
cudaError_t set_function_attribute(void (*kernel)(P...), cudaFuncAttribute attribute, int value) {
  count_question();
  if (device.answer != cudaSuccess) return device.answer;
  std::lock_guard<std::mutex> lock(functions_mutex);
  Function& function = functions[reinterpret_cast<const void*>(kernel)];
  switch (attribute) {
    case cudaFuncAttributeMaxDynamicSharedMemorySize:
      if (value < 0 || value > device.shared_bytes - device.static_shared_bytes) return cudaErrorInvalidValue;
      function.dynamic_shared_bytes = value;
      return cudaSuccess;
    case cudaFuncAttributeNonPortableClusterSizeAllowed: function.any_cluster = value; return cudaSuccess;
    default: return cudaErrorInvalidValue;
  }
}

inline unsigned cluster_of(const cudaLaunchConfig_t& config) {
  for (unsigned k = 0; k < config.numAttrs; ++k) {
    if (config.attrs[k].id == cudaLaunchAttributeClusterDimension) return config.attrs[k].val.clusterDim.x;
  }
  return 1;
}
inline bool is_cooperative(const cudaLaunchConfig_t& config) {
  for (unsigned k = 0; k < config.numAttrs; ++k) {
    if (config.attrs[k].id == cudaLaunchAttributeCooperative) return config.attrs[k].val.cooperative;
  }
  return false;
}

// What the driver says before it launches anything.
inline cudaError_t admit(const void* kernel, size_t shared_bytes, unsigned cluster) {
  const Function function = attributes_of(kernel);
  // Beyond the device's own limits the launch says so itself.
  if (shared_bytes > size_t(function.dynamic_shared_bytes) && shared_bytes <= kMaxSharedBytes) {
    return cudaErrorInvalidValue;
  }
  if (cluster > kPortableClusterBlocks && cluster <= kMaxClusterBlocks && !function.any_cluster) {
    return cudaErrorInvalidClusterSize;
  }
  return cudaSuccess;
}

template <class... P>
cudaError_t max_active_blocks(int* blocks, void (*kernel)(P...), int threads, size_t shared_bytes) {
  count_question();
  if (device.answer != cudaSuccess) return device.answer;
  const cudaError_t error = admit(reinterpret_cast<const void*>(kernel), shared_bytes, 1);
  if (error != cudaSuccess) return error;
  const size_t of_block = shared_bytes + device.static_shared_bytes + kReservedSharedBytes;
  const int by_memory = (kMaxSharedBytes + kReservedSharedBytes) / of_block;
  *blocks = std::min(
      {int(kMultiprocessorThreads) / threads, by_memory, kMultiprocessorRegisters / (threads * device.registers)});
  return cudaSuccess;
}

template <class... P>
cudaError_t max_active_clusters(int* clusters, void (*kernel)(P...), const cudaLaunchConfig_t* config) {
  const int cluster = cluster_of(*config);
  int blocks = 0;
  cudaError_t error = admit(reinterpret_cast<const void*>(kernel), config->dynamicSmemBytes, cluster);
  if (error == cudaSuccess) {
    error = max_active_blocks(&blocks, kernel, static_cast<int>(config->blockDim.x), config->dynamicSmemBytes);
  }
  *clusters = 0;
  for (const int n : device.gpcs) *clusters += n * blocks / cluster;
  return error;
}

template <class... P, class... A>
cudaError_t launch_kernel(const cudaLaunchConfig_t& config, const char* name, void (*kernel)(P...), A... arguments) {
  if (const auto hook = std::exchange(before_next_launch, nullptr)) hook();
  const unsigned cluster = cluster_of(config);
  const cudaError_t error = admit(reinterpret_cast<const void*>(kernel), config.dynamicSmemBytes, cluster);
  if (error != cudaSuccess) return error;
  const Launch what{config.gridDim, config.blockDim, config.dynamicSmemBytes, is_cooperative(config), cluster, name};
  if (on_launch) {
    const cudaError_t refused = on_launch(what);
    if (refused != cudaSuccess) return refused;
  }
  const auto run = [=] { launch(what, [=] { kernel(arguments...); }); };
  later ? later(config.stream, run) : run();
  return cudaSuccess;
}

inline cudaError_t set_memory(void* memory, int value, size_t bytes, cudaStream_t stream) {
  const auto run = [=] { std::memset(memory, value, bytes); };
  later ? later(stream, run) : run();
  return cudaSuccess;
}

}  // namespace emu

#define cudaGetDevice ::emu::get_device
#define cudaDeviceGetAttribute ::emu::get_attribute
#define cudaFuncGetAttributes ::emu::get_function_attributes
#define cudaFuncSetAttribute ::emu::set_function_attribute
#define cudaOccupancyMaxActiveBlocksPerMultiprocessor ::emu::max_active_blocks
#define cudaOccupancyMaxActiveClusters ::emu::max_active_clusters
#define cudaGetLastError() cudaSuccess
#define cudaMemsetAsync ::emu::set_memory
