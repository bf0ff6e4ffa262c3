// CUDA kernels of the pointwise step: all of an LSTM step but its GEMMs, fused into one launch each way.
//
// A thread owns V neighbouring elements of one row: it loads everything it needs, runs the cell in acc_t, stores.
// No shared memory, no atomics, no reduction: results do not depend on the order in which threads run. V is 16 bytes'
// worth of scalars where H and every pointer allow, else 1.
//
// Cost, bytes an element of [B,H] (s = sizeof(scalar_t), a = sizeof(acc_t)), each read or written once:
//   forward   9s + 2a + masks: gates in and out, y; c_prev in, c out      (+ s each for h_tilde_next and h_state)
//   backward 10s + 4a + masks: gates in, da out, dy, dh_tilde_next; c_prev, c in, dc in and out   (+ 2a: dh_carry)
// Floor = bytes / bandwidth: float32, B = H = 128, is 0.7 MB forward, 0.15 us at 4.8 TB/s: there a launch costs more
// than the pass, so what fusion saves is launches.
#include <algorithm>
#include <initializer_list>

#include "lstm_cell.h"
#include "numbers.cuh"
#include "step_kernels.h"

namespace rnndrop::cuda {
namespace {

constexpr int kVectorBytes = 16;
// Two warps still fill an SM (32 blocks of 64 are its 2048 threads) and spread a small step over more SMs.
constexpr int kThreads = 64;
// As many blocks an SM as leave a thread 128 registers: enough to have all of its loads under way at once.
constexpr int kMinBlocks = 8;

// V elements as they lie in memory: one access of 16 bytes, or two where acc_t is wider than scalar_t.
template <class T, int V>
struct alignas(V * sizeof(T) < kVectorBytes ? V * sizeof(T) : kVectorBytes) Pack {
  T data[V];
};

template <class T, class acc_t, int V>
__device__ __forceinline__ void load(acc_t (&out)[V], const T* in) {
  const Pack<T, V> pack = *reinterpret_cast<const Pack<T, V>*>(in);
#pragma unroll
  for (int k = 0; k < V; ++k) out[k] = to_acc(pack.data[k]);
}

template <class T, class acc_t, int V>
__device__ __forceinline__ void load_or(acc_t (&out)[V], const T* in, acc_t absent) {
  if (in) {
    load(out, in);
  } else {
#pragma unroll
    for (int k = 0; k < V; ++k) out[k] = absent;
  }
}

template <class T, class acc_t, int V>
__device__ __forceinline__ void store(T* out, const acc_t (&in)[V]) {
  Pack<T, V> pack;
#pragma unroll
  for (int k = 0; k < V; ++k) from_acc(pack.data[k], in[k]);
  *reinterpret_cast<Pack<T, V>*>(out) = pack;
}

// pre = W_ih x~ + W_hh h~ (what the GEMMs left) + b_ih + b_hh; column is within the row's [4H]
template <class scalar_t, class acc_t, int V>
__device__ __forceinline__ void load_pre_activation(acc_t (&pre)[V], const StepForward& step, const scalar_t* gates,
                                                    int64_t column) {
  acc_t b_ih[V], b_hh[V];
  load(pre, gates + column);
  load_or(b_ih, offset<scalar_t>(step.b_ih, column), acc_t(0));
  load_or(b_hh, offset<scalar_t>(step.b_hh, column), acc_t(0));
#pragma unroll
  for (int k = 0; k < V; ++k) pre[k] += b_ih[k] + b_hh[k];
}

// h~ of the next step: mask_h * h, for all gates or for each
template <class scalar_t, class acc_t, int V>
__device__ __forceinline__ void store_h_tilde(const StepForward& step, int64_t at, const acc_t (&h)[V]) {
  if (!step.h_tilde_next) return;
#pragma unroll 1
  for (int64_t gate = 0; gate < step.n_h_tilde; ++gate) {
    const int64_t of_gate = gate * step.B * step.H + at;
    acc_t h_tilde[V];
    load_or(h_tilde, offset<scalar_t>(step.mask_h, of_gate), acc_t(1));
#pragma unroll
    for (int k = 0; k < V; ++k) h_tilde[k] *= h[k];
    store(offset<scalar_t>(step.h_tilde_next, of_gate), h_tilde);
  }
}

// The noise of V elements from (b, j) on; absent is 1 for a mask, 0 for zoneout.
template <class scalar_t, class acc_t, int V>
__device__ __forceinline__ void load_noise(acc_t (&out)[V], const RowNoise& noise, acc_t absent, int64_t b, int64_t j) {
  load_or(out, offset<scalar_t>(noise.data, b * noise.stride + j), absent);
}

template <class scalar_t, bool noisy_state, class acc_t, int V>
__device__ __forceinline__ void load_noise(CellNoise<acc_t> (&out)[V], const StepNoise& noise, int64_t b, int64_t j) {
  acc_t m_g[V], m_c[V], z_c[V], z_h[V];
  load_noise<scalar_t>(m_g, noise.mask_g, acc_t(1), b, j);
  if (noisy_state) {
    load_noise<scalar_t>(m_c, noise.mask_c, acc_t(1), b, j);
    load_noise<scalar_t>(z_c, noise.zone_c, acc_t(0), b, j);
    load_noise<scalar_t>(z_h, noise.zone_h, acc_t(0), b, j);
  }
#pragma unroll
  for (int k = 0; k < V; ++k) {
    out[k].m_g = m_g[k];
    if (!noisy_state) continue;
    out[k].m_c = m_c[k];
    out[k].z_c = z_c[k];
    out[k].z_h = z_h[k];
  }
}

// The row and the first column of this thread.
struct Place {
  int64_t b, j;
};

template <int V>
__device__ __forceinline__ Place my_place() {
  return {int64_t(blockIdx.x) * blockDim.y + threadIdx.y, (int64_t(blockIdx.y) * blockDim.x + threadIdx.x) * V};
}

template <class scalar_t, int V, bool noisy_state>
__global__ void __launch_bounds__(kThreads, kMinBlocks) forward_kernel(const StepForward step) {
  using acc_t = acc_type<scalar_t>;
  const int64_t H = step.H;
  const auto [b, j] = my_place<V>();
  if (b >= step.B || j >= H) return;
  const int64_t at = b * H + j;
  const int64_t column_i = j, column_f = H + j, column_g = 2 * H + j, column_o = 3 * H + j;
  scalar_t* gates = offset<scalar_t>(step.gates, 4 * b * H);
  scalar_t* y = offset<scalar_t>(step.y, at);
  acc_t c_prev[V];
  load(c_prev, offset<acc_t>(step.c_prev, at));

  if (step.lengths && step.t >= step.lengths[b]) {
    const acc_t zero[V] = {};
    store(gates + column_i, zero);
    store(gates + column_f, zero);
    store(gates + column_g, zero);
    store(gates + column_o, zero);
    store(y, zero);
    store(offset<acc_t>(step.c, at), c_prev);
    if (step.h_tilde_next) {
      acc_t h[V];
      load(h, offset<scalar_t>(step.h_state, at));
      store_h_tilde<scalar_t>(step, at, h);
    }
    return;
  }

  acc_t i[V], f[V], g[V], o[V], c[V], h[V];
  CellNoise<acc_t> noise[V];
  load_pre_activation(i, step, gates, column_i);
  load_pre_activation(f, step, gates, column_f);
  load_pre_activation(g, step, gates, column_g);
  load_pre_activation(o, step, gates, column_o);
  load_noise<scalar_t, noisy_state>(noise, step.noise, b, j);
  if (noisy_state) load_or(h, offset<scalar_t>(step.h_state, at), acc_t(0));  // h_{t-1}
#pragma unroll
  for (int k = 0; k < V; ++k) {
    const CellForward<acc_t> cell =
        cell_forward<noisy_state>(i[k], f[k], g[k], o[k], noise[k], c_prev[k], noisy_state ? h[k] : acc_t(0));
    i[k] = cell.i;
    f[k] = cell.f;
    g[k] = cell.g;
    o[k] = cell.o;
    c[k] = cell.c;
    h[k] = cell.h;
  }
  store(gates + column_i, i);
  store(gates + column_f, f);
  store(gates + column_g, g);
  store(gates + column_o, o);
  store(offset<acc_t>(step.c, at), c);
  store(y, h);
  if (step.h_state) store(offset<scalar_t>(step.h_state, at), h);
  store_h_tilde<scalar_t>(step, at, h);
}

template <class scalar_t, int V, bool noisy_state>
__global__ void __launch_bounds__(kThreads, kMinBlocks) backward_kernel(const StepBackward step) {
  using acc_t = acc_type<scalar_t>;
  const int64_t H = step.H;
  const auto [b, j] = my_place<V>();
  if (b >= step.B || j >= H) return;
  const int64_t at = b * H + j;
  const int64_t column_i = j, column_f = H + j, column_g = 2 * H + j, column_o = 3 * H + j;
  scalar_t* da = offset<scalar_t>(step.da, 4 * b * H);
  acc_t* dh_carry = offset<acc_t>(step.dh_carry, at);

  // dh = what the step after hands down: dL/dh~ through the mask, and what came past every GEMM
  acc_t dh[V];
  load_or(dh, dh_carry, acc_t(0));
#pragma unroll 1
  for (int64_t gate = 0; step.dh_tilde_next && gate < step.n_h_tilde; ++gate) {
    const int64_t of_gate = gate * step.B * H + at;
    acc_t dh_tilde_next[V], mask_h[V];
    load(dh_tilde_next, offset<scalar_t>(step.dh_tilde_next, of_gate));
    load_or(mask_h, offset<scalar_t>(step.mask_h, of_gate), acc_t(1));
#pragma unroll
    for (int k = 0; k < V; ++k) dh[k] += mask_h[k] * dh_tilde_next[k];
  }

  if (step.lengths && step.t >= step.lengths[b]) {
    const acc_t zero[V] = {};
    store(da + column_i, zero);
    store(da + column_f, zero);
    store(da + column_g, zero);
    store(da + column_o, zero);
    if (dh_carry) store(dh_carry, dh);
    return;
  }

  const scalar_t* gates = offset<scalar_t>(step.gates, 4 * b * H);
  acc_t* dc_in_out = offset<acc_t>(step.dc, at);
  acc_t i[V], f[V], g[V], o[V], c_prev[V], c[V], dy[V], dc[V];
  CellNoise<acc_t> noise[V];
  load(i, gates + column_i);
  load(f, gates + column_f);
  load(g, gates + column_g);
  load(o, gates + column_o);
  load_noise<scalar_t, noisy_state>(noise, step.noise, b, j);
  load(c_prev, offset<acc_t>(step.c_prev, at));
  load(c, offset<acc_t>(step.c, at));
  load_or(dy, offset<scalar_t>(step.dy, at), acc_t(0));
  load(dc, dc_in_out);
#pragma unroll
  for (int k = 0; k < V; ++k) {
    const CellBackward<acc_t> cell =
        cell_backward<noisy_state>(i[k], f[k], g[k], o[k], noise[k], c_prev[k], c[k], dh[k] + dy[k], dc[k]);
    i[k] = cell.di_pre;
    f[k] = cell.df_pre;
    g[k] = cell.dg_pre;
    o[k] = cell.do_pre;
    dc[k] = cell.dc_prev;
    dh[k] = cell.dh_prev;
  }
  store(da + column_i, i);
  store(da + column_f, f);
  store(da + column_g, g);
  store(da + column_o, o);
  store(dc_in_out, dc);
  if (dh_carry) store(dh_carry, dh);
}

bool aligned(std::initializer_list<const void*> pointers) {
  return std::all_of(pointers.begin(), pointers.end(),
                     [](const void* p) { return reinterpret_cast<uintptr_t>(p) % kVectorBytes == 0; });
}

// One thread for each V columns. A block covers as much of a row as it can and is filled up with further rows.
template <class Step>
cudaError_t launch(const char* name, void (*kernel)(Step), const Step& step, int V, cudaStream_t stream) {
  if (step.B == 0 || step.H == 0) return cudaSuccess;
  const int64_t columns = (step.H + V - 1) / V;
  unsigned across = 1;
  while (across < kThreads && across < columns) across *= 2;
  const unsigned rows = kThreads / across;
  LaunchCfg config;
  config.grid = dim3((step.B + rows - 1) / rows, (columns + across - 1) / across);
  config.block = dim3(across, rows);
  config.stream = stream;
  return launch_kernel(config, name, kernel, step);
}

bool aligned(const StepNoise& noise) {
  return aligned({noise.mask_g.data, noise.mask_c.data, noise.zone_c.data, noise.zone_h.data});
}

template <class scalar_t, bool noisy_state>
cudaError_t forward(const StepForward& step, cudaStream_t stream) {
  constexpr int V = kVectorBytes / sizeof(scalar_t);
  const bool vector = step.H % V == 0 && aligned(step.noise) &&
                      aligned({step.b_ih, step.b_hh, step.mask_h, step.gates, step.c_prev, step.c, step.y, step.h_state,
                               step.h_tilde_next});
  return vector ? launch("forward_kernel", forward_kernel<scalar_t, V, noisy_state>, step, V, stream)
                : launch("forward_kernel", forward_kernel<scalar_t, 1, noisy_state>, step, 1, stream);
}

template <class scalar_t, bool noisy_state>
cudaError_t backward(const StepBackward& step, cudaStream_t stream) {
  constexpr int V = kVectorBytes / sizeof(scalar_t);
  const bool vector = step.H % V == 0 && aligned(step.noise) &&
                      aligned({step.mask_h, step.gates, step.c_prev, step.c, step.dy, step.dh_tilde_next, step.dh_carry,
                               step.dc, step.da});
  return vector ? launch("backward_kernel", backward_kernel<scalar_t, V, noisy_state>, step, V, stream)
                : launch("backward_kernel", backward_kernel<scalar_t, 1, noisy_state>, step, 1, stream);
}

template <class scalar_t>
cudaError_t forward(const StepForward& step, cudaStream_t stream) {
  return step.noise.on_state() ? forward<scalar_t, true>(step, stream) : forward<scalar_t, false>(step, stream);
}

template <class scalar_t>
cudaError_t backward(const StepBackward& step, cudaStream_t stream) {
  return step.noise.on_state() ? backward<scalar_t, true>(step, stream) : backward<scalar_t, false>(step, stream);
}

}  // namespace

cudaError_t step_forward(const StepForward& step, cudaStream_t stream) {
  switch (step.dtype) {
    case Dtype::float64: return forward<double>(step, stream);
    case Dtype::float32: return forward<float>(step, stream);
    case Dtype::bfloat16: return forward<__nv_bfloat16>(step, stream);
    case Dtype::float16: return forward<__half>(step, stream);
  }
  return cudaErrorInvalidValue;  // no such dtype
}

cudaError_t step_backward(const StepBackward& step, cudaStream_t stream) {
  switch (step.dtype) {
    case Dtype::float64: return backward<double>(step, stream);
    case Dtype::float32: return backward<float>(step, stream);
    case Dtype::bfloat16: return backward<__nv_bfloat16>(step, stream);
    case Dtype::float16: return backward<__half>(step, stream);
  }
  return cudaErrorInvalidValue;  // no such dtype
}

}  // namespace rnndrop::cuda
