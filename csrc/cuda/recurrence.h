// The persistent engines: all steps of a layer's recurrence in one launch, forward or backward. Plain launchers, no
// torch header: the torch side (backend.cpp), the emulated backend and the driver of tests/cuda call these.
#pragma once

#include <cuda_runtime_api.h>

#include <stdexcept>

#include "params.h"
#include "recurrence_plan.h"

namespace rnndrop::cuda {

struct RecurrenceLaunch {
  Plan plan;                // of any engine but stepwise
  void* scratch = nullptr;  // scratch_bytes(plan) on the device, aligned to 16 bytes, set to anything
  cudaStream_t stream = nullptr;
};

// Lengths and noise on the state: what most layers go without, and their kernels too.
inline bool is_general(const LayerNoise& noise, const int64_t* lengths) {
  return lengths || noise.at_step(0).on_state();
}
inline bool is_general(const Recurrence& r) { return is_general(r.noise, r.lengths); }

// A dtype and the way it is multiplied: one file of kernels each.
struct Float64;
struct Float32;
struct Tf32;
struct Bfloat16;
struct Float16;

template <class M>
struct RecurrenceKernels {
  // Enqueue; return the launch's error.
  static cudaError_t run(const RecurrenceForward& r, const RecurrenceLaunch& launch);
  static cudaError_t run(const RecurrenceBackward& r, const RecurrenceLaunch& launch);
  // How many of the plan's groups the current device runs at once, as its driver says; 0 where it cannot run them,
  // kNoAnswer where the driver cannot say.
  static int64_t groups_at_once(const Plan& plan, bool backward, bool general);
};
extern template struct RecurrenceKernels<Float64>;
extern template struct RecurrenceKernels<Float32>;
extern template struct RecurrenceKernels<Tf32>;
extern template struct RecurrenceKernels<Bfloat16>;
extern template struct RecurrenceKernels<Float16>;

// call(RecurrenceKernels<M>{}) for the dtype's M.
template <class Call>
auto with_recurrence_kernels(Dtype dtype, bool tf32, const Call& call) {
  switch (dtype) {
    case Dtype::float64: return call(RecurrenceKernels<Float64>{});
    case Dtype::float32: return tf32 ? call(RecurrenceKernels<Tf32>{}) : call(RecurrenceKernels<Float32>{});
    case Dtype::bfloat16: return call(RecurrenceKernels<Bfloat16>{});
    case Dtype::float16: return call(RecurrenceKernels<Float16>{});
  }
  throw std::logic_error("with_recurrence_kernels: no such dtype");
}

}  // namespace rnndrop::cuda
