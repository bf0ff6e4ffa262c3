// CPU kernels of the pointwise step: load a chunk of a row into the compute type, run the cell on it, store it. Each
// dtype's are compiled in a file of their own (step_float32.cpp ...), side by side: they take the compiler a minute.
//
// The loops are plain scalar C++ over arrays of a fixed length, compiled for each width of vectors as vector_isa.h
// says. Cost: the GEMMs' results are read and written once; at H=128 the exps take longer than the memory.
#pragma once

#include <c10/util/Half.h>

#include <algorithm>
#include <type_traits>

#include "cpu/compute_type.h"
#include "cpu/convert.h"
#include "cpu/step_kernels.h"
#include "cpu/vector_isa.h"
#include "lstm_cell.h"

namespace rnndrop::cpu {
namespace {

constexpr int64_t kChunk = 64;
constexpr int64_t kLanes = kVectorUnits;  // the widest vector's, in float32

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

// A row's end, n of kLanes elements: for float and double a masked vector; for 16 bits, whose conversions would become
// a branch an element, a call.
template <class scalar_t, class acc_t>
INLINE void load_end(acc_t* out, const scalar_t* in, int n) {
  if constexpr (std::is_same_v<scalar_t, acc_t>) {
    for (int k = 0; k < kLanes; ++k) out[k] = k < n ? in[k] : acc_t(0);
  } else {
    for (int k = 0; k < kLanes; ++k) out[k] = acc_t(0);
    convert(out, in, n);
  }
}
template <class scalar_t, class acc_t>
INLINE void store_end(scalar_t* out, const acc_t* in, int n) {
  if constexpr (std::is_same_v<scalar_t, acc_t>) {
    for (int k = 0; k < kLanes; ++k) {
      if (k < n) out[k] = in[k];
    }
  } else {
    convert(out, in, n);
  }
}

// float16, for which the processor has an instruction that the compiler does not find in a loop.
template <class scalar_t>
inline constexpr bool kConvertsByCall = std::is_same_v<scalar_t, c10::Half>;

template <class scalar_t, class acc_t>
INLINE void load(Chunk<acc_t>& out, const scalar_t* in, int64_t n) {
  const int64_t whole = n / kLanes * kLanes;
  if constexpr (kConvertsByCall<scalar_t>) {
    convert(out.data, in, whole);
  } else {
    for_each_element(whole, [&](int64_t k) __attribute__((always_inline)) { out[k] = static_cast<acc_t>(in[k]); });
  }
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
  if constexpr (kConvertsByCall<scalar_t>) {
    convert(out, in.data, whole);
  } else {
    for_each_element(whole, [&](int64_t k) __attribute__((always_inline)) { out[k] = static_cast<scalar_t>(in[k]); });
  }
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
  if (gemm) {
    load(pre, gemm, n);
    add(pre, recurrent, n);
  } else {
    load(pre, recurrent, n);
    add(pre, from_x, n);
  }
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

// ---------------------------------------------------------------- a strip: neither lengths nor noise on h or the state

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

template <class T>
struct Constant {
  alignas(64) T of_gates[kGates * kLanes];
  explicit constexpr Constant(T value) : of_gates() {
    for (T& element : of_gates) element = value;
  }
};
template <class T>
inline constexpr Constant<T> kZeros{T(0)};
template <class T>
inline constexpr Constant<T> kOnes{T(1)};

// kLanes elements. What is absent is read from constants and written to nowhere, so that there is one loop, which the
// compiler turns into straight vector code.
template <class T>
INLINE void forward_lanes(const Strip<T>& strip, int64_t at) {
  alignas(64) T nowhere[kGates * kLanes];
  const T *pre = strip.pre + at, *addend = strip.addend ? strip.addend + at : kZeros<T>.of_gates;
  const T *mask_g = strip.mask_g ? strip.mask_g + at : kOnes<T>.of_gates, *c_prev = strip.c_prev + at;
  T *out = strip.out ? strip.out + at : nowhere, *c = strip.c + at, *y = strip.y + at;
  const int64_t of_pre = strip.pre_stride, of_addend = strip.addend ? strip.addend_stride : kLanes;
  const int64_t of_out = strip.out ? strip.out_stride : kLanes;
  INDEPENDENT_ITERATIONS
  for (int64_t k = 0; k < kLanes; ++k) {
    const auto pre_of = [=](int64_t gate) __attribute__((always_inline)) {
      return pre[gate * of_pre + k] + addend[gate * of_addend + k];
    };
    CellNoise<T> noise;
    noise.m_g = mask_g[k];
    const CellForward<T> cell = cell_forward<false>(pre_of(kInput), pre_of(kForget), pre_of(kCandidate),
                                                    pre_of(kOutput), noise, c_prev[k], T(0));
    out[kInput * of_out + k] = cell.i;
    out[kForget * of_out + k] = cell.f;
    out[kCandidate * of_out + k] = cell.g;
    out[kOutput * of_out + k] = cell.o;
    c[k] = cell.c;
    y[k] = cell.h;
  }
}

// The first n < kLanes elements from `at` on, by way of whole vectors.
template <class T>
INLINE void forward_end(const Strip<T>& strip, int64_t at, int64_t n) {
  alignas(64) T pre[kGates * kLanes], addend[kGates * kLanes], mask_g[kLanes], c_prev[kLanes], c[kLanes], y[kLanes];
  for (int64_t gate = 0; gate < kGates; ++gate) {
    load_end(pre + gate * kLanes, strip.pre + gate * strip.pre_stride + at, n);
    if (strip.addend) load_end(addend + gate * kLanes, strip.addend + gate * strip.addend_stride + at, n);
  }
  if (strip.mask_g) load_end(mask_g, strip.mask_g + at, n);
  load_end(c_prev, strip.c_prev + at, n);
  const Strip<T> whole{
      pre, kLanes, strip.addend ? addend : nullptr, kLanes, pre, kLanes, strip.mask_g ? mask_g : nullptr, c_prev, c, y};
  forward_lanes(whole, 0);
  for (int64_t gate = 0; strip.out && gate < kGates; ++gate) {
    store_end(strip.out + gate * strip.out_stride + at, pre + gate * kLanes, n);
  }
  store_end(strip.c + at, c, n);
  store_end(strip.y + at, y, n);
}

template <class T>
INLINE void forward_strip(const Strip<T>& strip, int64_t n) {
  int64_t at = 0;
  for (; at + kLanes <= n; at += kLanes) forward_lanes(strip, at);
  if (at < n) forward_end(strip, at, n - at);
}

// row(of step.gates, of `pre`) for every row and gate: the two places that they have.
template <class T, class Row>
INLINE void for_each_gate_row(const StepForward& step, const Part& part, const PreActivations& pre, const Row& row) {
  for (int64_t b = part.row_begin; b < part.row_end; ++b) {
    for (int64_t gate = 0; gate < kGates; ++gate) {
      row(static_cast<T*>(step.gates) + (b * kGates + gate) * step.H,
          static_cast<T*>(pre.data) + gate * pre.gate_stride + (b - part.row_begin) * pre.row_stride);
    }
  }
}

// out[n] = what `value` makes of a[n] and b[n], by vectors to the end.
template <class T, class Value>
INLINE void combine(T* out, const T* a, const T* b, int64_t n, const Value& value) {
  int64_t at = 0;
  for (; at + kLanes <= n; at += kLanes) {
    INDEPENDENT_ITERATIONS
    for (int64_t k = at; k < at + kLanes; ++k) out[k] = value(a[k], b[k]);
  }
  if (at == n) return;
  alignas(64) T of_a[kLanes], of_b[kLanes];
  load_end(of_a, a + at, n - at);
  load_end(of_b, b + at, n - at);
  for (int64_t k = 0; k < kLanes; ++k) of_a[k] = value(of_a[k], of_b[k]);
  store_end(out + at, of_a, n - at);
}

// A strip a row; or, where rows of `pre` follow one another as those of c do, one for all: a narrow layer's rows would
// each end within a vector.
template <class T>
INLINE void forward_strips(const StepForward& step, const Part& part, const PreActivations& pre) {
  const int64_t H = step.H, rows = part.row_end - part.row_begin, units = part.unit_end - part.unit_begin;
  const RowNoise& mask_g = step.noise.mask_g;
  const auto strip_at = [&](int64_t b) __attribute__((always_inline)) {
    const int64_t j = part.unit_begin, at = b * H + j;
    T* of_row = static_cast<T*>(pre.data) + (b - part.row_begin) * pre.row_stride;
    T* gates = step.gates ? static_cast<T*>(step.gates) + kGates * b * H + j : nullptr;
    return Strip<T>{of_row,
                    pre.gate_stride,
                    pre.complete ? nullptr : gates,
                    H,
                    gates,
                    H,
                    offset<T>(mask_g.data, b * mask_g.stride + j),
                    static_cast<const T*>(step.c_prev) + at,
                    static_cast<T*>(step.c) + at,
                    static_cast<T*>(step.y) + at};
  };
  // With few rows that is not worth the passes between the two places of the gates.
  const bool enough_rows = rows >= (pre.complete ? 2 : 4);
  const bool adjacent = units == H && pre.row_stride == H && (!mask_g.data || mask_g.stride == H);
  if (adjacent && enough_rows && H % kLanes != 0) {
    if (!pre.complete) {
      for_each_gate_row<T>(step, part, pre, [&](const T* gates, T* of_row) __attribute__((always_inline)) {
        combine(of_row, of_row, gates, H, [](T of_h, T of_x) __attribute__((always_inline)) { return of_h + of_x; });
      });
    }
    Strip<T> strip = strip_at(part.row_begin);
    strip.addend = nullptr;
    strip.out = strip.out ? strip.pre : nullptr;
    strip.out_stride = strip.pre_stride;
    forward_strip(strip, rows * H);
    if (step.gates) {
      for_each_gate_row<T>(step, part, pre, [&](T* gates, const T* of_row) __attribute__((always_inline)) {
        combine(gates, of_row, of_row, H, [](T gate, T) __attribute__((always_inline)) { return gate; });
      });
    }
    return;
  }
  for (int64_t b = part.row_begin; b < part.row_end; ++b) forward_strip(strip_at(b), units);
}

// The same for 16 bits, whose y and gates are rounded from strips of acc.
template <class scalar_t>
INLINE void forward_narrow_strips(const StepForward& step, const Part& part, const PreActivations& pre) {
  const int64_t H = step.H, rows = part.row_end - part.row_begin, units = part.unit_end - part.unit_begin;
  const auto row_of = [&](int64_t b) __attribute__((always_inline)) {
    return static_cast<float*>(pre.data) + (b - part.row_begin) * pre.row_stride;
  };
  const auto from_x_of = [&](int64_t b) __attribute__((always_inline)) {
    return pre.complete ? nullptr : static_cast<const float*>(pre.from_x) + kGates * b * H + part.unit_begin;
  };
  const auto store_gates = [&](int64_t b) __attribute__((always_inline)) {
    for (int64_t gate = 0; step.gates && gate < kGates; ++gate) {
      convert(static_cast<scalar_t*>(step.gates) + (b * kGates + gate) * H + part.unit_begin,
              row_of(b) + gate * pre.gate_stride, units);
    }
  };
  // n elements from row b on; y goes to memory in portions.
  const auto run = [&](int64_t b, int64_t n, bool has_x) __attribute__((always_inline)) {
    constexpr int64_t kPortion = 16 * kLanes;
    alignas(64) float y[kPortion];
    for (int64_t first = 0; first < n; first += kPortion) {
      const int64_t of_portion = std::min(kPortion, n - first), at = b * H + part.unit_begin + first;
      float* sums = row_of(b) + first;
      forward_strip(Strip<float>{sums, pre.gate_stride, has_x ? from_x_of(b) + first : nullptr, H,
                                 step.gates ? sums : nullptr, pre.gate_stride, nullptr,
                                 static_cast<const float*>(step.c_prev) + at, static_cast<float*>(step.c) + at, y},
                    of_portion);
      convert(static_cast<scalar_t*>(step.y) + at, y, of_portion);
    }
  };
  const bool enough_rows = rows >= (pre.complete ? 2 : 4);  // as in forward_strips()
  if (units == H && pre.row_stride == H && H % kLanes != 0 && enough_rows) {
    for (int64_t b = part.row_begin; !pre.complete && b < part.row_end; ++b) {
      for (int64_t gate = 0; gate < kGates; ++gate) {
        float* sums = row_of(b) + gate * pre.gate_stride;
        combine(sums, static_cast<const float*>(sums), from_x_of(b) + gate * H, H,
                [](float of_h, float of_x) __attribute__((always_inline)) { return of_h + of_x; });
      }
    }
    run(part.row_begin, rows * H, false);
  } else {
    for (int64_t b = part.row_begin; b < part.row_end; ++b) run(b, units, !pre.complete);
  }
  for (int64_t b = part.row_begin; b < part.row_end; ++b) store_gates(b);
}

// ---------------------------------------------------------------- with whatever noise there is

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
