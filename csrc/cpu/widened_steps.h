// Steps of a narrow layer of a 16-bit type, run in float32: what they save and read is converted for some steps at
// once.
//
// A row of a narrow layer's gate is shorter than a vector, and a step with few rows as short as the calls that convert
// it. Cost: float32 copies of these steps' gates and dy, which the first cache holds.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/compute_type.h"
#include "cpu/convert.h"
#include "cpu/threads.h"
#include "params.h"

namespace rnndrop::cpu {

// Gates that are converted together. A step that has more is run a few rows at a time, each converted by itself.
constexpr int64_t kWidenedTogether = 1 << 12;

// Whether the step kernels of float32 can run a layer stored as S and multiplied as T, if no h~ is kept: that and noise
// are S's.
template <class S, class T>
bool widens_steps(const LayerProblem& layer) {
  const LayerNoise& noise = layer.noise;
  const bool noisy = noise.mask_g.data || noise.mask_c.data || noise.zone_c.data || noise.zone_h.data;
  return is_16_bits<S> && !is_16_bits<T> && !noisy && layer.B * kGates * layer.H <= kWidenedTogether;
}
inline int64_t steps_widened_together(const LayerProblem& layer) {
  return std::max<int64_t>(kWidenedTogether / std::max<int64_t>(layer.B * kGates * layer.H, 1), 1);
}

// out = in, both [steps,B,columns], at some rows of the batch.
template <class Out, class In>
void convert_rows(Out* out, const In* in, int64_t steps, int64_t B, const Range& rows, int64_t columns) {
  // The rows of several steps lie together if they are all.
  const bool whole = rows.size() == B;
  for (int64_t s = 0; s < (whole ? 1 : steps); ++s) {
    const int64_t first = (s * B + rows.begin) * columns;
    convert(out + first, in + first, (whole ? steps * B : rows.size()) * columns);
  }
}

}  // namespace rnndrop::cpu
