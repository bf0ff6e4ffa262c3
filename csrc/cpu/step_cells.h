// The cell on a strip of memory or on loaded chunks, in the widest vectors this CPU has: what the pointwise step
// computes with, once for all dtypes of one compute type.
#pragma once

#include "cpu/step_chunks.h"

namespace rnndrop::cpu {

// Neighbours in memory: of every gate, of c and of h. From gate to gate `pre`, `addend` and `out` lie their strides
// apart.
template <class T>
struct Strip {
  T* pre;
  int64_t pre_stride;
  const T* addend;  // to `pre`, or null
  int64_t addend_stride;
  T* out;  // the activated gates, or null; may be pre or addend
  int64_t out_stride;
  const T *mask_g, *c_prev;  // mask_g may be null
  T *c, *y;
};

// What one chunk of a row is loaded into. The pre-activations become the gates; c and h are written.
template <class T>
struct ForwardChunks {
  Chunk<T> gates[kGates];
  NoiseChunks<T> noise;
  Chunk<T> c_prev, h_prev, c, h;  // h_prev counts with noise on the state only
};

// The gates become the gradients of the pre-activations, dh and dc those of the step before.
template <class T>
struct BackwardChunks {
  Chunk<T> gates[kGates];
  NoiseChunks<T> noise;
  Chunk<T> c_prev, c, dy, dh, dc;
};

template <class T>
struct CellKernels {
  void (*forward_strip)(const Strip<T>&, int64_t n);
  void (*forward)(ForwardChunks<T>&, int64_t n, bool noisy_state);
  void (*backward)(BackwardChunks<T>&, int64_t n, bool noisy_state);
};
template <class T>
const CellKernels<T>& cell_kernels();

}  // namespace rnndrop::cpu
