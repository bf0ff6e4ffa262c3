// CPU kernels of the pointwise step: load a chunk of a row into the compute type, run the cell on it, store it. Each
// dtype's are compiled in a file of their own (step_float32.cpp ...), side by side: they take the compiler a minute.
//
// A forward without noise on h or the state is in step_strips.h, loading and storing in step_chunks.h. Cost: the GEMMs'
// results are read and written once; at H=128 the exps take longer than the memory.
#pragma once

#include "cpu/step_strips.h"

namespace rnndrop::cpu {
namespace {

template <class scalar_t, bool noisy_state>
INLINE void forward_part(const StepForward& step, const Part& part, const PreActivations& pre) {
  using acc_t = acc_type<scalar_t>;
  const int64_t H = step.H;
  const auto* b_ih = static_cast<const scalar_t*>(step.b_ih);
  const auto* b_hh = static_cast<const scalar_t*>(step.b_hh);
  if constexpr (std::is_same_v<scalar_t, acc_t> && !noisy_state) {
    const bool has_state = step.lengths || step.h_state || step.h_tilde_next;
    if (!has_state && pre.data && !b_ih && !b_hh) return forward_strips<acc_t>(step, part, pre);
  }
  if constexpr (!std::is_same_v<scalar_t, acc_t> && !noisy_state) {
    const bool has_state = step.lengths || step.h_state || step.h_tilde_next || step.noise.mask_g.data;
    if (!has_state && (pre.complete || pre.from_x) && !b_ih && !b_hh) {
      return forward_narrow_strips<scalar_t>(step, part, pre);
    }
  }
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
        for (int64_t gate = 0; gates && gate < kGates; ++gate) std::fill_n(gates + gate * H, n, scalar_t(0));
        std::fill_n(y, n, scalar_t(0));
        store(c_out, c_prev, n);
        if (step.h_tilde_next) {
          load(h, h_state, n);
          store_h_tilde<scalar_t>(step, at, h, n);
        }
        return;
      }

      Chunk<acc_t> i, f, g, o, c, h_prev;
      NoiseChunks<acc_t> noise;
      const acc_t* from_h = offset<const acc_t>(pre.data, (b - part.row_begin) * pre.row_stride + j - part.unit_begin);
      const acc_t* from_x = offset<acc_t>(pre.from_x, 4 * b * H + j);
      const scalar_t* in_gates = pre.complete || from_x ? nullptr : gates;
      const auto load_gate = [&](Chunk<acc_t>& sum, int64_t gate) __attribute__((always_inline)) {
        const int64_t column = gate * H + j;
        load_pre_activation(sum, in_gates ? in_gates + gate * H : nullptr, from_x ? from_x + gate * H : nullptr,
                            from_h ? from_h + gate * pre.gate_stride : nullptr, b_ih ? b_ih + column : nullptr,
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
  ATTRIBUTE void forward_##NAME(const StepForward& step, const Part& part, const PreActivations& pre) {       \
    step.noise.on_state() ? forward_part<scalar_t, true>(step, part, pre)                                     \
                          : forward_part<scalar_t, false>(step, part, pre);                                   \
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
