// The pointwise step: load a chunk of a row into the compute type, run the cell on it, store it.
//
// A forward without noise on h or the state is in step_strips.h, loading and storing in step_chunks.h, the cell in
// step_cells.cpp. Cost: the GEMMs' results are read and written once.
#include "cpu/step_kernels.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <stdexcept>

#include "cpu/step_strips.h"

namespace rnndrop::cpu {
namespace {

// A row past its end: the state stays as it is.
template <class scalar_t>
INLINE void carry_row(const StepForward& step, int64_t b, int64_t unit_begin, int64_t unit_end) {
  using acc_t = acc_type<scalar_t>;
  const int64_t at = b * step.H + unit_begin, n = unit_end - unit_begin;
  scalar_t* gates = offset<scalar_t>(step.gates, kGates * b * step.H + unit_begin);
  for (int64_t gate = 0; gates && gate < kGates; ++gate) std::fill_n(gates + gate * step.H, n, scalar_t(0));
  std::fill_n(static_cast<scalar_t*>(step.y) + at, n, scalar_t(0));
  std::copy_n(static_cast<const acc_t*>(step.c_prev) + at, n, static_cast<acc_t*>(step.c) + at);
  if (!step.h_tilde_next) return;
  Chunk<acc_t> h;
  for_each_chunk(unit_begin, unit_end, [&](int64_t j, int64_t n_units) __attribute__((always_inline)) {
    load(h, static_cast<const scalar_t*>(step.h_state) + b * step.H + j, n_units);
    store_h_tilde<scalar_t>(step, b * step.H + j, h, n_units);
  });
}

inline bool is_past_end(const int64_t* lengths, int64_t t, int64_t b) { return lengths && t >= lengths[b]; }

// Of rows that lie together from b on, how many of at most n run like it, or have all ended.
INLINE int64_t rows_alike(const int64_t* lengths, int64_t t, int64_t b, int64_t n) {
  if (!lengths) return n;
  int64_t alike = 1;
  while (alike < n && is_past_end(lengths, t, b + alike) == is_past_end(lengths, t, b)) ++alike;
  return alike;
}

// y of these rows where the next step and a sequence's end want it too.
template <class scalar_t>
INLINE void keep_h(const StepForward& step, const Part& part) {
  const int64_t n = part.unit_end - part.unit_begin;
  for (int64_t b = part.row_begin; b < part.row_end; ++b) {
    const int64_t at = b * step.H + part.unit_begin;
    const scalar_t* y = static_cast<const scalar_t*>(step.y) + at;
    if (step.h_state) copy(static_cast<scalar_t*>(step.h_state) + at, y, n);
    if (step.h_tilde_next) copy(static_cast<scalar_t*>(step.h_tilde_next) + at, y, n);
  }
}

// Whether the cell takes strips of memory as they are; else it takes them a chunk at a time, with all that there may
// be.
template <class scalar_t>
INLINE bool takes_strips(const StepForward& step, const PreActivations& pre) {
  if (step.b_ih || step.b_hh || step.noise.on_state() || step.mask_h || step.n_h_tilde > 1) return false;
  if (std::is_same_v<scalar_t, acc_type<scalar_t>>) return pre.data;
  return (pre.complete || pre.from_x) && !step.noise.mask_g.data;
}

template <class scalar_t>
INLINE void forward_in_strips(const StepForward& step, const Part& part, const PreActivations& pre) {
  using acc_t = acc_type<scalar_t>;
  for (int64_t b = part.row_begin, n; b < part.row_end; b += n) {
    n = rows_alike(step.lengths, step.t, b, part.row_end - b);
    const Part rows{b, b + n, part.unit_begin, part.unit_end};
    if (is_past_end(step.lengths, step.t, b)) {
      for (int64_t row = b; row < b + n; ++row) carry_row<scalar_t>(step, row, part.unit_begin, part.unit_end);
      continue;
    }
    PreActivations of_rows = pre;
    of_rows.data = static_cast<acc_t*>(pre.data) + (b - part.row_begin) * pre.row_stride;
    if constexpr (std::is_same_v<scalar_t, acc_t>) {
      forward_strips<acc_t>(step, rows, of_rows);
    } else {
      forward_narrow_strips<scalar_t>(step, rows, of_rows);
    }
    if (step.h_state || step.h_tilde_next) keep_h<scalar_t>(step, rows);
  }
}

// How many rows fill a chunk, where each is whole and nothing but the gates lies between one and the next.
INLINE int64_t rows_together(int64_t H, const Part& part, const StepNoise& noise) {
  const auto is_dense = [&](const RowNoise& of_row) { return !of_row.data || of_row.stride == H; };
  const bool dense =
      is_dense(noise.mask_g) && is_dense(noise.mask_c) && is_dense(noise.zone_c) && is_dense(noise.zone_h);
  return dense && part.unit_end - part.unit_begin == H ? std::max<int64_t>(1, kChunk / H) : 1;
}

template <class scalar_t>
INLINE void forward_part(const StepForward& step, const Part& part, const PreActivations& pre) {
  using acc_t = acc_type<scalar_t>;
  if (takes_strips<scalar_t>(step, pre)) return forward_in_strips<scalar_t>(step, part, pre);
  const int64_t H = step.H;
  const auto* b_ih = static_cast<const scalar_t*>(step.b_ih);
  const auto* b_hh = static_cast<const scalar_t*>(step.b_hh);
  const bool noisy_state = step.noise.on_state();
  const auto run_cell = cell_kernels<acc_t>().forward;
  ForwardChunks<acc_t> chunks;
  Chunk<acc_t>&c_prev = chunks.c_prev, &h_prev = chunks.h_prev, &c = chunks.c, &h = chunks.h;
  const int64_t together = b_ih || b_hh ? 1 : rows_together(H, part, step.noise);
  for (int64_t b = part.row_begin, M; b < part.row_end; b += M) {
    const bool past_end = is_past_end(step.lengths, step.t, b);
    M = past_end ? 1 : rows_alike(step.lengths, step.t, b, std::min(together, part.row_end - b));
    if (past_end) {
      carry_row<scalar_t>(step, b, part.unit_begin, part.unit_end);
      continue;
    }
    for_each_chunk(part.unit_begin, part.unit_end, [&](int64_t j, int64_t n_units) __attribute__((always_inline)) {
      const int64_t at = b * H + j, of_gates = kGates * b * H + j, n = M * n_units;
      scalar_t* gates = offset<scalar_t>(step.gates, of_gates);
      scalar_t* h_state = offset<scalar_t>(step.h_state, at);
      const acc_t* from_h = offset<const acc_t>(pre.data, (b - part.row_begin) * pre.row_stride + j - part.unit_begin);
      const acc_t* from_x = offset<acc_t>(pre.from_x, of_gates);
      const scalar_t* in_gates = pre.complete || from_x ? nullptr : gates;
      for (int64_t gate = 0; gate < kGates; ++gate) {
        Chunk<acc_t>& sums = chunks.gates[gate];
        const acc_t* of_h = from_h ? from_h + gate * pre.gate_stride : nullptr;
        if (in_gates) {
          load_rows(sums, in_gates + gate * H, kGates * H, M, n_units);
          add_rows(sums, of_h, pre.row_stride, M, n_units);
        } else {
          load_rows(sums, of_h, pre.row_stride, M, n_units);
          add_rows(sums, from_x ? from_x + gate * H : nullptr, kGates * H, M, n_units);
        }
        for (const scalar_t* bias : {b_ih, b_hh}) add_rows(sums, bias ? bias + gate * H + j : nullptr, 0, 1, n_units);
      }
      load_noise<scalar_t>(chunks.noise, step.noise, b, j, n);
      load(c_prev, static_cast<const acc_t*>(step.c_prev) + at, n);
      if (noisy_state) load_or(h_prev, static_cast<const scalar_t*>(h_state), acc_t(0), n);
      run_cell(chunks, n, noisy_state);
      for (int64_t gate = 0; gates && gate < kGates; ++gate) {
        store_rows(gates + gate * H, chunks.gates[gate], kGates * H, M, n_units);
      }
      store(static_cast<acc_t*>(step.c) + at, c, n);
      store(static_cast<scalar_t*>(step.y) + at, h, n);
      if (h_state) store(h_state, h, n);
      store_h_tilde<scalar_t>(step, at, h, n);
    });
  }
}

template <class scalar_t>
INLINE void backward_part(const StepBackward& step, const Part& part, const AccGradients& gradients) {
  using acc_t = acc_type<scalar_t>;
  const int64_t H = step.H;
  const bool noisy_state = step.noise.on_state();
  const auto run_cell = cell_kernels<acc_t>().backward;
  BackwardChunks<acc_t> chunks;
  Chunk<acc_t>&c_prev = chunks.c_prev, &c = chunks.c, &dy = chunks.dy, &dh = chunks.dh, &dc = chunks.dc;
  const int64_t together = rows_together(H, part, step.noise);
  for (int64_t b = part.row_begin, M; b < part.row_end; b += M) {
    const bool past_end = is_past_end(step.lengths, step.t, b);
    M = past_end ? 1 : rows_alike(step.lengths, step.t, b, std::min(together, part.row_end - b));
    for_each_chunk(part.unit_begin, part.unit_end, [&](int64_t j, int64_t n_units) __attribute__((always_inline)) {
      const int64_t at = b * H + j, n = M * n_units;
      scalar_t* da = offset<scalar_t>(step.da, 4 * b * H + j);
      acc_t* da_acc = offset<acc_t>(gradients.da, 4 * b * H + j);
      acc_t* dh_carry = offset<acc_t>(step.dh_carry, at);

      load_or(dh, dh_carry, acc_t(0), n);
      for (int64_t gate = 0; (gradients.dh_tilde_next || step.dh_tilde_next) && gate < step.n_h_tilde; ++gate) {
        const int64_t of_gate = gate * step.B * H + at;
        Chunk<acc_t> from_gemm, mask_h;
        if (gradients.dh_tilde_next) {
          load(from_gemm, static_cast<const acc_t*>(gradients.dh_tilde_next) + of_gate, n);
        } else {
          load(from_gemm, static_cast<const scalar_t*>(step.dh_tilde_next) + of_gate, n);
        }
        load_or(mask_h, offset<scalar_t>(step.mask_h, of_gate), acc_t(1), n);
        for_each_element(n, [&](int64_t k) __attribute__((always_inline)) { dh[k] += mask_h[k] * from_gemm[k]; });
      }

      if (past_end) {
        for (int64_t gate = 0; gate < kGates; ++gate) {
          if (da_acc) {
            std::fill_n(da_acc + gate * H, n, acc_t(0));
          } else {
            std::fill_n(da + gate * H, n, scalar_t(0));
          }
        }
        if (dh_carry) store(dh_carry, dh, n);
        return;
      }

      const scalar_t* gates = static_cast<const scalar_t*>(step.gates) + 4 * b * H + j;
      acc_t* dc_in_out = static_cast<acc_t*>(step.dc) + at;
      for (int64_t gate = 0; gate < kGates; ++gate) {
        load_rows(chunks.gates[gate], gates + gate * H, kGates * H, M, n_units);
      }
      load_noise<scalar_t>(chunks.noise, step.noise, b, j, n);
      load(c_prev, static_cast<const acc_t*>(step.c_prev) + at, n);
      load(c, static_cast<const acc_t*>(step.c) + at, n);
      load_or(dy, offset<scalar_t>(step.dy, at), acc_t(0), n);
      load(dc, dc_in_out, n);
      run_cell(chunks, n, noisy_state);
      const auto store_da = [&](auto* out) __attribute__((always_inline)) {
        for (int64_t gate = 0; gate < kGates; ++gate) {
          store_rows(out + gate * H, chunks.gates[gate], kGates * H, M, n_units);
        }
      };
      da_acc ? store_da(da_acc) : store_da(da);
      store(dc_in_out, dc, n);
      if (dh_carry) store(dh_carry, dh, n);
    });
  }
}

// One dtype's.
struct Kernels {
  void (*forward)(const StepForward&, const Part&, const PreActivations&);
  void (*backward)(const StepBackward&, const Part&, const AccGradients&);
};

#define DEFINE_KERNELS(NAME, ATTRIBUTE)                                                                       \
  template <class scalar_t>                                                                                   \
  ATTRIBUTE void forward_##NAME(const StepForward& step, const Part& part, const PreActivations& pre) {       \
    forward_part<scalar_t>(step, part, pre);                                                                  \
  }                                                                                                           \
  template <class scalar_t>                                                                                   \
  ATTRIBUTE void backward_##NAME(const StepBackward& step, const Part& part, const AccGradients& gradients) { \
    backward_part<scalar_t>(step, part, gradients);                                                           \
  }                                                                                                           \
  template <class scalar_t>                                                                                   \
  constexpr Kernels kernels_##NAME{forward_##NAME<scalar_t>, backward_##NAME<scalar_t>};
DEFINE_FOR_EVERY_ISA(DEFINE_KERNELS)
#undef DEFINE_KERNELS

template <class scalar_t>
const Kernels& kernels() {
  static const Kernels& chosen = WIDEST_OF(kernels_, scalar_t);
  return chosen;
}

const Kernels& kernels_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::float64: return kernels<double>();
    case Dtype::float32: return kernels<float>();
    case Dtype::bfloat16: return kernels<c10::BFloat16>();
    case Dtype::float16: return kernels<c10::Half>();
  }
  throw std::logic_error("step_kernels: no such dtype");
}

}  // namespace

void step_forward(const StepForward& step, const Part& part, const PreActivations& pre) {
  kernels_of(step.dtype).forward(step, part, pre);
}

void step_backward(const StepBackward& step, const Part& part, const AccGradients& gradients) {
  kernels_of(step.dtype).backward(step, part, gradients);
}

}  // namespace rnndrop::cpu
