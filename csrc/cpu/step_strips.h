// The forward of a strip, neighbours in memory, where there are neither lengths nor noise on h or the state.
#pragma once

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "cpu/step_cells.h"

namespace rnndrop::cpu {
namespace {

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
  for_each_vector(n, [&](int64_t first, auto length) __attribute__((always_inline)) {
    T values[length];
    for (int64_t k = 0; k < length; ++k) values[k] = value(a[first + k], b[first + k]);
    std::memcpy(out + first, values, sizeof values);
  });
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
  const auto run = cell_kernels<T>().forward_strip;
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
    run(strip, rows * H);
    if (step.gates) {
      for_each_gate_row<T>(step, part, pre, [&](T* gates, const T* of_row) __attribute__((always_inline)) {
        combine(gates, of_row, of_row, H, [](T gate, T) __attribute__((always_inline)) { return gate; });
      });
    }
    return;
  }
  for (int64_t b = part.row_begin; b < part.row_end; ++b) run(strip_at(b), units);
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
  const auto run_strip = cell_kernels<float>().forward_strip;
  // n elements from row b on; y goes to memory in portions.
  const auto run = [&](int64_t b, int64_t n, bool has_x) __attribute__((always_inline)) {
    constexpr int64_t kPortion = 16 * kLanes;
    alignas(64) float y[kPortion];
    for (int64_t first = 0; first < n; first += kPortion) {
      const int64_t of_portion = std::min(kPortion, n - first), at = b * H + part.unit_begin + first;
      float* sums = row_of(b) + first;
      run_strip(Strip<float>{sums, pre.gate_stride, has_x ? from_x_of(b) + first : nullptr, H,
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
