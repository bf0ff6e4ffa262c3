// CPU kernels of the pointwise step: load a chunk of a row into the compute type, run the cell on it, store it. Each
// dtype's are compiled in a file of their own (step_float32.cpp ...), side by side: they take the compiler a minute.
//
// The loops are plain scalar C++ over arrays of a fixed length, compiled for each width of vectors as vector_isa.h
// says. Cost: the GEMMs' results are read and written once; at H=128 the exps take longer than the memory.
#pragma once

#include <algorithm>
#include <type_traits>

#include "cpu/compute_type.h"
#include "cpu/step_kernels.h"
#include "cpu/vector_isa.h"
#include "lstm_cell.h"

namespace rnndrop::cpu {
namespace {

constexpr int64_t kChunk = 64;
constexpr int64_t kLanes = 16;  // the widest vector's, in float32

template <class T>
struct alignas(64) Chunk {
  T data[kChunk];
  INLINE T& operator[](int64_t k) { return data[k]; }
};

// work(first, n)
template <class Work>
INLINE void for_each_chunk(int64_t begin, int64_t end, const Work& work) {
  for (int64_t j = begin; j < end; j += kChunk) work(j, std::min(kChunk, end - j));
}

// work(k) for the elements of a chunk, and up to a multiple of kLanes beyond them: a constant number at a time is what
// the compiler turns into whole vectors, with nothing left over.
template <class Work>
INLINE void for_each_element(int64_t n, const Work& work) {
  for (int64_t first = 0; first < n; first += kLanes) {
    for (int64_t k = first; k < first + kLanes; ++k) work(k);
  }
}

// A row's end, n of kLanes elements: for float and double a masked vector. The 16-bit types' conversions would become a
// branch an element instead; those are a call, compiled once.
template <class scalar_t, class acc_t>
[[gnu::noinline]] void convert_end(acc_t* out, const scalar_t* in, int n) {
  for (int k = 0; k < n; ++k) out[k] = static_cast<acc_t>(in[k]);
}
template <class scalar_t, class acc_t>
INLINE void load_end(acc_t* out, const scalar_t* in, int n) {
  if constexpr (std::is_same_v<scalar_t, acc_t>) {
    for (int k = 0; k < kLanes; ++k) out[k] = k < n ? in[k] : acc_t(0);
  } else {
    for (int k = 0; k < kLanes; ++k) out[k] = acc_t(0);
    convert_end(out, in, n);
  }
}
template <class scalar_t, class acc_t>
INLINE void store_end(scalar_t* out, const acc_t* in, int n) {
  if constexpr (std::is_same_v<scalar_t, acc_t>) {
    for (int k = 0; k < kLanes; ++k) {
      if (k < n) out[k] = in[k];
    }
  } else {
    convert_end(out, in, n);
  }
}

template <class scalar_t, class acc_t>
INLINE void load(Chunk<acc_t>& out, const scalar_t* in, int64_t n) {
  const int64_t whole = n / kLanes * kLanes;
  for_each_element(whole, [&](int64_t k) __attribute__((always_inline)) { out[k] = static_cast<acc_t>(in[k]); });
  if (whole < n) [[unlikely]]
    load_end(out.data + whole, in + whole, n - whole);
}

template <class scalar_t, class acc_t>
INLINE void load_or(Chunk<acc_t>& out, const scalar_t* in, acc_t absent, int64_t n) {
  if (in) {
    load(out, in, n);
  } else {
    for (int64_t k = 0; k < kChunk; ++k) out[k] = absent;
  }
}

template <class scalar_t, class acc_t>
INLINE void store(scalar_t* out, Chunk<acc_t>& in, int64_t n) {
  const int64_t whole = n / kLanes * kLanes;
  for_each_element(whole, [&](int64_t k) __attribute__((always_inline)) { out[k] = static_cast<scalar_t>(in[k]); });
  if (whole < n) [[unlikely]]
    store_end(out + whole, in.data + whole, n - whole);
}

template <class scalar_t, class acc_t>
INLINE void add(Chunk<acc_t>& out, const scalar_t* in, int64_t n) {
  if (!in) return;
  Chunk<acc_t> addend;
  load(addend, in, n);
  for_each_element(n, [&](int64_t k) __attribute__((always_inline)) { out[k] += addend[k]; });
}

template <class T>
INLINE const T* offset(const void* base, int64_t elements) {
  return base ? static_cast<const T*>(base) + elements : nullptr;
}
template <class T>
INLINE T* offset(void* base, int64_t elements) {
  return base ? static_cast<T*>(base) + elements : nullptr;
}

template <class scalar_t, class acc_t>
INLINE void load_pre_activation(Chunk<acc_t>& pre, const scalar_t* gemm, const acc_t* from_x, const acc_t* recurrent,
                                const scalar_t* b_ih, const scalar_t* b_hh, int64_t n) {
  if constexpr (std::is_same_v<scalar_t, acc_t>) {
    load(pre, from_x ? from_x : gemm, n);
  } else {
    from_x ? load(pre, from_x, n) : load(pre, gemm, n);
  }
  add(pre, recurrent, n);
  add(pre, b_ih, n);
  add(pre, b_hh, n);
}

// The noise of n elements from (b, j) on; absent is 1 for a mask, 0 for zoneout.
template <class scalar_t, class acc_t>
INLINE void load_noise(Chunk<acc_t>& out, const RowNoise& noise, acc_t absent, int64_t b, int64_t j, int64_t n) {
  load_or(out, offset<scalar_t>(noise.data, b * noise.stride + j), absent, n);
}

template <class acc_t>
struct NoiseChunks {
  Chunk<acc_t> m_g, m_c, z_c, z_h;
  template <bool noisy_state>
  INLINE CellNoise<acc_t> at(int64_t k) {
    CellNoise<acc_t> noise;
    noise.m_g = m_g[k];
    if constexpr (noisy_state) {
      noise.m_c = m_c[k];
      noise.z_c = z_c[k];
      noise.z_h = z_h[k];
    }
    return noise;
  }
};

template <bool noisy_state, class scalar_t, class acc_t>
INLINE void load_noise(NoiseChunks<acc_t>& out, const StepNoise& noise, int64_t b, int64_t j, int64_t n) {
  load_noise<scalar_t>(out.m_g, noise.mask_g, acc_t(1), b, j, n);
  if constexpr (noisy_state) {
    load_noise<scalar_t>(out.m_c, noise.mask_c, acc_t(1), b, j, n);
    load_noise<scalar_t>(out.z_c, noise.zone_c, acc_t(0), b, j, n);
    load_noise<scalar_t>(out.z_h, noise.zone_h, acc_t(0), b, j, n);
  }
}

// h~ of the next step: mask_h * h, for all gates or for each.
template <class scalar_t, class acc_t>
INLINE void store_h_tilde(const StepForward& step, int64_t at, Chunk<acc_t>& h, int64_t n) {
  if (!step.h_tilde_next) return;
  for (int64_t gate = 0; gate < step.n_h_tilde; ++gate) {
    scalar_t* h_tilde = static_cast<scalar_t*>(step.h_tilde_next) + gate * step.h_tilde_stride + at;
    Chunk<acc_t> mask;
    load_or(mask, offset<scalar_t>(step.mask_h, gate * step.B * step.H + at), acc_t(1), n);
    for_each_element(n, [&](int64_t k) __attribute__((always_inline)) { mask[k] *= h[k]; });
    store(h_tilde, mask, n);
  }
}

template <class scalar_t, bool noisy_state>
INLINE void forward_part(const StepForward& step, const Part& part, const RecurrentPart& recurrent) {
  using acc_t = acc_type<scalar_t>;
  const int64_t H = step.H;
  const auto* b_ih = static_cast<const scalar_t*>(step.b_ih);
  const auto* b_hh = static_cast<const scalar_t*>(step.b_hh);
  for (int64_t b = part.row_begin; b < part.row_end; ++b) {
    const bool past_end = step.lengths && step.t >= step.lengths[b];
    for_each_chunk(part.unit_begin, part.unit_end, [&](int64_t j, int64_t n) __attribute__((always_inline)) {
      const int64_t at = b * H + j;
      scalar_t* gates = offset<scalar_t>(step.gates, 4 * b * H + j);
      scalar_t* y = static_cast<scalar_t*>(step.y) + at;
      acc_t* c_out = static_cast<acc_t*>(step.c) + at;
      scalar_t* h_state = offset<scalar_t>(step.h_state, at);
      Chunk<acc_t> h, c_prev;
      load(c_prev, static_cast<const acc_t*>(step.c_prev) + at, n);

      if (past_end) {
        for (int64_t k = 0; gates && k < n; ++k) {
          gates[k] = gates[H + k] = gates[2 * H + k] = gates[3 * H + k] = scalar_t(0);
        }
        for (int64_t k = 0; k < n; ++k) y[k] = scalar_t(0);
        store(c_out, c_prev, n);
        if (step.h_tilde_next) {
          load(h, h_state, n);
          store_h_tilde<scalar_t>(step, at, h, n);
        }
        return;
      }

      Chunk<acc_t> i, f, g, o, c, h_prev;
      NoiseChunks<acc_t> noise;
      const acc_t* from_h =
          offset<acc_t>(recurrent.data, (b - part.row_begin) * recurrent.row_stride + j - part.unit_begin);
      const acc_t* from_x = offset<acc_t>(recurrent.from_x, 4 * b * H + j);
      const auto load_gate = [&](Chunk<acc_t>& pre, int64_t gate) __attribute__((always_inline)) {
        const int64_t column = gate * H + j;
        load_pre_activation(pre, from_x ? nullptr : gates + gate * H, from_x ? from_x + gate * H : nullptr,
                            from_h ? from_h + gate * recurrent.gate_stride : nullptr, b_ih ? b_ih + column : nullptr,
                            b_hh ? b_hh + column : nullptr, n);
      };
      load_gate(i, kInput);
      load_gate(f, kForget);
      load_gate(g, kCandidate);
      load_gate(o, kOutput);
      load_noise<noisy_state, scalar_t>(noise, step.noise, b, j, n);
      if constexpr (noisy_state) load_or(h_prev, static_cast<const scalar_t*>(h_state), acc_t(0), n);
      for_each_element(n, [&](int64_t k) __attribute__((always_inline)) {
        const CellForward<acc_t> cell = cell_forward<noisy_state>(
            i[k], f[k], g[k], o[k], noise.template at<noisy_state>(k), c_prev[k], noisy_state ? h_prev[k] : acc_t(0));
        i[k] = cell.i;
        f[k] = cell.f;
        g[k] = cell.g;
        o[k] = cell.o;
        c[k] = cell.c;
        h[k] = cell.h;
      });
      if (gates) {
        store(gates, i, n);
        store(gates + H, f, n);
        store(gates + 2 * H, g, n);
        store(gates + 3 * H, o, n);
      }
      store(c_out, c, n);
      store(y, h, n);
      if (h_state) store(h_state, h, n);
      store_h_tilde<scalar_t>(step, at, h, n);
    });
  }
}

template <class scalar_t, bool noisy_state>
INLINE void backward_part(const StepBackward& step, const Part& part, const AccGradients& gradients) {
  using acc_t = acc_type<scalar_t>;
  const int64_t H = step.H;
  for (int64_t b = part.row_begin; b < part.row_end; ++b) {
    const bool past_end = step.lengths && step.t >= step.lengths[b];
    for_each_chunk(part.unit_begin, part.unit_end, [&](int64_t j, int64_t n) __attribute__((always_inline)) {
      const int64_t at = b * H + j;
      scalar_t* da = offset<scalar_t>(step.da, 4 * b * H + j);
      acc_t* da_acc = offset<acc_t>(gradients.da, 4 * b * H + j);
      acc_t* dh_carry = offset<acc_t>(step.dh_carry, at);

      Chunk<acc_t> dh, from_gemm, mask_h;
      load_or(dh, dh_carry, acc_t(0), n);
      for (int64_t gate = 0; (gradients.dh_tilde_next || step.dh_tilde_next) && gate < step.n_h_tilde; ++gate) {
        const int64_t of_gate = gate * step.B * H + at;
        if (gradients.dh_tilde_next) {
          load(from_gemm, static_cast<const acc_t*>(gradients.dh_tilde_next) + of_gate, n);
        } else {
          load(from_gemm, static_cast<const scalar_t*>(step.dh_tilde_next) + of_gate, n);
        }
        load_or(mask_h, offset<scalar_t>(step.mask_h, of_gate), acc_t(1), n);
        for_each_element(n, [&](int64_t k) __attribute__((always_inline)) { dh[k] += mask_h[k] * from_gemm[k]; });
      }

      if (past_end) {
        for (int64_t k = 0; k < n; ++k) {
          if (da_acc) {
            da_acc[k] = da_acc[H + k] = da_acc[2 * H + k] = da_acc[3 * H + k] = acc_t(0);
          } else {
            da[k] = da[H + k] = da[2 * H + k] = da[3 * H + k] = scalar_t(0);
          }
        }
        if (dh_carry) store(dh_carry, dh, n);
        return;
      }

      const scalar_t* gates = static_cast<const scalar_t*>(step.gates) + 4 * b * H + j;
      acc_t* dc_in_out = static_cast<acc_t*>(step.dc) + at;
      Chunk<acc_t> i, f, g, o, c_prev, c, dy, dc;
      NoiseChunks<acc_t> noise;
      load(i, gates, n);
      load(f, gates + H, n);
      load(g, gates + 2 * H, n);
      load(o, gates + 3 * H, n);
      load_noise<noisy_state, scalar_t>(noise, step.noise, b, j, n);
      load(c_prev, static_cast<const acc_t*>(step.c_prev) + at, n);
      load(c, static_cast<const acc_t*>(step.c) + at, n);
      load_or(dy, offset<scalar_t>(step.dy, at), acc_t(0), n);
      load(dc, dc_in_out, n);
      for_each_element(n, [&](int64_t k) __attribute__((always_inline)) {
        const CellBackward<acc_t> cell = cell_backward<noisy_state>(
            i[k], f[k], g[k], o[k], noise.template at<noisy_state>(k), c_prev[k], c[k], dh[k] + dy[k], dc[k]);
        i[k] = cell.di_pre;
        f[k] = cell.df_pre;
        g[k] = cell.dg_pre;
        o[k] = cell.do_pre;
        dc[k] = cell.dc_prev;
        dh[k] = cell.dh_prev;
      });
      const auto store_gradients = [&](auto* out) __attribute__((always_inline)) {
        store(out, i, n);
        store(out + H, f, n);
        store(out + 2 * H, g, n);
        store(out + 3 * H, o, n);
      };
      da_acc ? store_gradients(da_acc) : store_gradients(da);
      store(dc_in_out, dc, n);
      if (dh_carry) store(dh_carry, dh, n);
    });
  }
}

#define DEFINE_KERNELS(NAME, ATTRIBUTE)                                                                       \
  template <class scalar_t>                                                                                   \
  ATTRIBUTE void forward_##NAME(const StepForward& step, const Part& part, const RecurrentPart& recurrent) {  \
    step.noise.on_state() ? forward_part<scalar_t, true>(step, part, recurrent)                               \
                          : forward_part<scalar_t, false>(step, part, recurrent);                             \
  }                                                                                                           \
  template <class scalar_t>                                                                                   \
  ATTRIBUTE void backward_##NAME(const StepBackward& step, const Part& part, const AccGradients& gradients) { \
    step.noise.on_state() ? backward_part<scalar_t, true>(step, part, gradients)                              \
                          : backward_part<scalar_t, false>(step, part, gradients);                            \
  }
DEFINE_FOR_EVERY_ISA(DEFINE_KERNELS)
#undef DEFINE_KERNELS

}  // namespace

template <class scalar_t>
const StepKernels& step_kernels() {
#define KERNELS(NAME, ATTRIBUTE) \
  static constexpr StepKernels kernels_##NAME{forward_##NAME<scalar_t>, backward_##NAME<scalar_t>};
  DEFINE_FOR_EVERY_ISA(KERNELS)
#undef KERNELS
  static const StepKernels& chosen = WIDEST(kernels_);
  return chosen;
}

}  // namespace rnndrop::cpu
