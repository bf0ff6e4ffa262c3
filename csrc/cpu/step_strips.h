// The forward of a strip, neighbours in memory, where there are neither lengths nor noise on h or the state.
#pragma once

#include <algorithm>
#include <type_traits>

#include "cpu/step_chunks.h"

namespace rnndrop::cpu {
namespace {

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

}  // namespace
}  // namespace rnndrop::cpu
