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

// Null where there is none: W_hh is in registers where there are tensor cores, and for multicast it has to be, whose
// kernels have no registers left for lengths and noise on the state.
template <class R, class M, Engine engine, bool general, bool in_registers>
RecurrenceKernel<R> kernel_of() {
  constexpr int kSteps = in_registers ? M::kStepsKept : 0;
  if constexpr ((in_registers && kSteps == 0) || (engine == Engine::multicast && (general || !in_registers))) {
    return nullptr;
  } else if constexpr (std::is_same_v<R, RecurrenceForward>) {
    return recurrence_forward_kernel<M, engine, general, kSteps>;
  } else {
    return recurrence_backward_kernel<M, engine, general, kSteps>;
  }
}
template <class R, class M, Engine engine>
RecurrenceKernel<R> kernel_of(bool general, bool in_registers) {
  if (in_registers) return general ? kernel_of<R, M, engine, true, true>() : kernel_of<R, M, engine, false, true>();
  return general ? kernel_of<R, M, engine, true, false>() : kernel_of<R, M, engine, false, false>();
}
template <class R, class M>
RecurrenceKernel<R> kernel_of(const Plan& plan, bool general) {
  switch (plan.engine) {
    case Engine::block: return kernel_of<R, M, Engine::block>(general, plan.tiling.in_registers);
    case Engine::cluster: return kernel_of<R, M, Engine::cluster>(general, plan.tiling.in_registers);
    case Engine::grid: return kernel_of<R, M, Engine::grid>(general, plan.tiling.in_registers);
    case Engine::multicast: return kernel_of<R, M, Engine::multicast>(general, plan.tiling.in_registers);
    case Engine::automatic:
    case Engine::stepwise: break;
  }
  return nullptr;
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
template <class M, class R>
cudaError_t launch_recurrence(const char* name, const R& r, const RecurrenceLaunch& launch) {
  const Plan& plan = launch.plan;
  const RecurrenceKernel<R> kernel = kernel_of<R, M>(plan, is_general(r));
  if (!kernel)
    throw std::logic_error(std::string("no kernel runs such a recurrence on engine ") + name_of(plan.engine));
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
cudaError_t RecurrenceKernels<M>::run(const RecurrenceForward& r, const RecurrenceLaunch& launch) {
  return launch_recurrence<M>("recurrence_forward_kernel", r, launch);
}

template <class M>
cudaError_t RecurrenceKernels<M>::run(const RecurrenceBackward& r, const RecurrenceLaunch& launch) {
  return launch_recurrence<M>("recurrence_backward_kernel", r, launch);
}

template <class M>
int64_t RecurrenceKernels<M>::groups_at_once(const Plan& plan, bool backward, bool general) {
  const auto clusters_of = [&](auto* kernel) -> int64_t {
    return kernel ? clusters_at_once(config_of(plan, nullptr), kernel, plan.engine == Engine::multicast) : 0;
  };
  const int64_t clusters = backward ? clusters_of(kernel_of<RecurrenceBackward, M>(plan, general))
                                    : clusters_of(kernel_of<RecurrenceForward, M>(plan, general));
  if (clusters < 1) return clusters;  // 0, or kNoAnswer
  return is_through_second_cache(plan.engine) ? clusters * plan.tiling.share / plan.tiling.blocks : clusters;
}

}  // namespace rnndrop::cuda
