// The forward of a strip, neighbours in memory, of rows that run, where there is no noise on h or the state.
#pragma once

#include <algorithm>
#include <type_traits>

#include "cpu/step_cells.h"

namespace rnndrop::cpu {
namespace {

// out += in, by vectors to the end.
template <class T>
INLINE void add_row(T* out, const T* in, int64_t n) {
  for_each_vector(n, [&](int64_t first, auto length) __attribute__((always_inline)) {
    using V = typename Vector<T, length * sizeof(T)>::in_memory;
    *reinterpret_cast<V*>(out + first) += *reinterpret_cast<const V*>(in + first);
  });
}

// A strip a row; or, where rows of `pre` follow one another as those of c do, one for all: a narrow layer's rows would
// each end within a vector.
template <class T>
INLINE void forward_strips(const StepForward& step, const Part& part, const PreActivations& pre) {
  const int64_t H = step.H, rows = part.row_end - part.row_begin, units = part.unit_end - part.unit_begin;
  const RowNoise& mask_g = step.noise.mask_g;
  const auto row_of = [&](int64_t b) __attribute__((always_inline)) {
    return static_cast<T*>(pre.data) + (b - part.row_begin) * pre.row_stride;
  };
  const auto gates_of = [&](int64_t b) __attribute__((always_inline)) {
    return offset<T>(step.gates, kGates * b * H + part.unit_begin);
  };
  const auto from_x_of = [&](int64_t b) __attribute__((always_inline)) -> const T* {
    if (pre.complete) return nullptr;
    return pre.from_x ? offset<const T>(pre.from_x, kGates * b * H + part.unit_begin) : gates_of(b);
  };
  const auto strip_at = [&](int64_t b) __attribute__((always_inline)) {
    const int64_t at = b * H + part.unit_begin;
    return Strip<T>{row_of(b),
                    pre.gate_stride,
                    from_x_of(b),
                    H,
                    gates_of(b),
                    H,
                    offset<T>(mask_g.data, b * mask_g.stride + part.unit_begin),
                    static_cast<const T*>(step.c_prev) + at,
                    static_cast<T*>(step.c) + at,
                    static_cast<T*>(step.y) + at};
  };
  const auto run = cell_kernels<T>().forward_strip;
  // With few rows that is not worth the passes between the two places of the gates.
  const bool enough_rows = rows >= (pre.complete ? 2 : 4);
  const bool adjacent = units == H && pre.row_stride == H && (!mask_g.data || mask_g.stride == H);
  if (adjacent && enough_rows && H % kLanes != 0) {
    for (int64_t b = part.row_begin; !pre.complete && b < part.row_end; ++b) {
      for (int64_t gate = 0; gate < kGates; ++gate) {
        add_row(row_of(b) + gate * pre.gate_stride, from_x_of(b) + gate * H, H);
      }
    }
    Strip<T> strip = strip_at(part.row_begin);
    strip.addend = nullptr;
    strip.out = strip.out ? strip.pre : nullptr;
    strip.out_stride = strip.pre_stride;
    run(strip, rows * H);
    for (int64_t b = part.row_begin; step.gates && b < part.row_end; ++b) {
      for (int64_t gate = 0; gate < kGates; ++gate) copy(gates_of(b) + gate * H, row_of(b) + gate * pre.gate_stride, H);
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
        add_row(row_of(b) + gate * pre.gate_stride, from_x_of(b) + gate * H, H);
      }
    }
    run(part.row_begin, rows * H, false);
  } else {
    for (int64_t b = part.row_begin; b < part.row_end; ++b) run(b, units, !pre.complete);
  }
  for (int64_t gate = 0; step.gates && gate < kGates; ++gate) {
    convert(static_cast<scalar_t*>(step.gates) + (part.row_begin * kGates + gate) * H + part.unit_begin, kGates * H,
            row_of(part.row_begin) + gate * pre.gate_stride, pre.row_stride, rows, units);
  }
}

}  // namespace
}  // namespace rnndrop::cpu
