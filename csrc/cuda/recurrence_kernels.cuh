// The persistent kernels: a layer's whole recurrence in one launch, W_hh on chip from the first step to the last.
//
// A group of blocks shares out the units; each block keeps its units' rows of W_hh (their columns, in the backward) in
// registers where they fit (kernels with kSteps > 0, tensor cores only) and else in shared memory, and c, h and their
// gradients in registers. recurrence_plan.h says how units and batch are split. A
// step:
//
//   forward    a = W_hh h~ (a product of the block's rows with all of h~)   cell   h~ to the group's blocks
//   backward   cell   da to the group's blocks   dh~ = da W_hh (its columns with all of da)
//
// Forward and backward are the same product, [rows, K] by [K, batch], cut over warps into tiles and splits of K; the
// splits are added in a fixed order, and nothing else is ever summed by more than one thread: same bits on every run.
// Where [K, batch] has no room in shared memory, it comes in pieces of K, each while the one before is multiplied.
// What the pointwise pass of the next step reads from memory is fetched before the wait for the other blocks.
//
// Cost of a step, a block: rows * K * sizeof(scalar) bytes of shared memory read for every four batch tiles, 128 bytes
// a cycle, none where they are in registers, and batch * K * sizeof(scalar) for every tile of rows; what is handed
// over, batch * K * sizeof(scalar) bytes to every block; and the wait: none (block), for the bytes
// on an mbarrier (cluster), for a flag through the second cache (grid, multicast). Floor: its latency, see
// docs/internals.md.
#pragma once

#include "recurrence_backward.cuh"
#include "recurrence_forward.cuh"

namespace rnndrop::cuda {
namespace {

template <class R>
using RecurrenceKernel = void (*)(const R, const Tiling, void*);

template <class R, class M, Engine engine, bool general, int kSteps>
RecurrenceKernel<R> kernel_of() {
  if constexpr (std::is_same_v<R, RecurrenceForward>) {
    return recurrence_forward_kernel<M, engine, general, kSteps>;
  } else {
    return recurrence_backward_kernel<M, engine, general, kSteps>;
  }
}
template <class R, class M, Engine engine, bool general>
RecurrenceKernel<R> kernel_of(bool in_registers) {
  if (!in_registers) return kernel_of<R, M, engine, general, 0>();
  if constexpr (M::kStepsKept > 0) {
    return kernel_of<R, M, engine, general, M::kStepsKept>();
  } else {
    throw std::logic_error("no kernel of this type keeps W_hh in registers");
  }
}
// With W_hh in registers alone: the other kernels have none left for it.
template <class M>
constexpr bool has_multicast(bool general) {
  return M::kStepsKept > 0 && !general;
}
template <class R, class M, bool general>
RecurrenceKernel<R> kernel_of(Engine engine, bool in_registers) {
  switch (engine) {
    case Engine::block: return kernel_of<R, M, Engine::block, general>(in_registers);
    case Engine::cluster: return kernel_of<R, M, Engine::cluster, general>(in_registers);
    case Engine::grid: return kernel_of<R, M, Engine::grid, general>(in_registers);
    case Engine::multicast:
      if constexpr (has_multicast<M>(general)) {
        if (in_registers) return kernel_of<R, M, Engine::multicast, general, M::kStepsKept>();
      }
      [[fallthrough]];
    case Engine::automatic:
    case Engine::stepwise: break;
  }
  throw std::logic_error(std::string("no kernel runs a recurrence on the engine ") + name_of(engine));
}
template <class R, class M>
RecurrenceKernel<R> kernel_of(const Plan& plan, bool general) {
  const bool in_registers = plan.tiling.in_registers;
  return general ? kernel_of<R, M, true>(plan.engine, in_registers) : kernel_of<R, M, false>(plan.engine, in_registers);
}

inline LaunchCfg config_of(const Plan& plan, cudaStream_t stream) {
  LaunchCfg config;
  config.grid = dim3(plan.tiling.groups * plan.tiling.blocks);
  config.block = dim3(plan.tiling.threads);
  config.smem = plan.shared_memory;
  config.stream = stream;
  config.coop = is_through_second_cache(plan.engine);
  config.cluster = plan.engine == Engine::cluster ? plan.tiling.blocks : plan.tiling.share;
  return config;
}

// Blocks that are launched together have to run together: what does not fit at once is launched behind the rest.
template <class R>
cudaError_t launch_recurrence(const char* name, RecurrenceKernel<R> kernel, const R& r,
                              const RecurrenceLaunch& launch) {
  const Plan& plan = launch.plan;
  cudaError_t error = cudaSuccess;
  if (is_through_second_cache(plan.engine)) {
    error = set_to_zero(launch.scratch, plan.tiling.groups * kFlagBytes, launch.stream);
  }
  LaunchCfg config = config_of(plan, launch.stream);
  Tiling tiling = plan.tiling;
  const int64_t at_once = groups_a_launch(plan);
  for (int64_t first = 0; first < tiling.groups && error == cudaSuccess; first += at_once) {
    tiling.first_block = first * tiling.blocks;
    config.grid = dim3(std::min(at_once, tiling.groups - first) * tiling.blocks);
    error = launch_kernel(config, name, kernel, r, tiling, launch.scratch);
  }
  return error;
}

}  // namespace

// An instantiation's file gives M its tile: struct Bfloat16 : HalfTile<__nv_bfloat16> {};
template <class M>
cudaError_t RecurrenceKernels<M>::forward(const RecurrenceForward& r, const RecurrenceLaunch& launch) {
  return launch_recurrence("recurrence_forward_kernel", kernel_of<RecurrenceForward, M>(launch.plan, is_general(r)), r,
                           launch);
}

template <class M>
cudaError_t RecurrenceKernels<M>::backward(const RecurrenceBackward& r, const RecurrenceLaunch& launch) {
  return launch_recurrence("recurrence_backward_kernel", kernel_of<RecurrenceBackward, M>(launch.plan, is_general(r)),
                           r, launch);
}

template <class M>
int64_t RecurrenceKernels<M>::groups_at_once(const Plan& plan, bool backward, bool general) {
  if (plan.engine == Engine::multicast && !has_multicast<M>(general)) return 0;
  const LaunchCfg config = config_of(plan, nullptr);
  const bool for_sm_90 = plan.engine == Engine::multicast;
  const int64_t clusters = backward
                               ? clusters_at_once(config, kernel_of<RecurrenceBackward, M>(plan, general), for_sm_90)
                               : clusters_at_once(config, kernel_of<RecurrenceForward, M>(plan, general), for_sm_90);
  if (clusters == kNoAnswer) return kNoAnswer;
  return is_through_second_cache(plan.engine) ? clusters * plan.tiling.share / plan.tiling.blocks : clusters;
}

}  // namespace rnndrop::cuda
