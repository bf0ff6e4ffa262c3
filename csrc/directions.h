// The two directions of a layer, neither of which waits for the other: on the CPU one after the other, or each on a
// thread, on a GPU each on a stream.
#pragma once

#include <ATen/ThreadLocalState.h>

#include "cpu/layer_schedule.h"
#include "cpu/threads.h"
#include "layer_inputs.h"
#ifdef RNNDROP_WITH_CUDA
#include "cuda/two_streams.h"
#endif

namespace rnndrop {

// Whether a layer runs its two directions at once. W_hh is of either. What is wrong with a shape the op says later.
inline bool runs_directions_at_once(const at::Tensor& x, const at::Tensor& W_hh) {
  LayerProblem layer;
  layer.T = x.size(0);
  layer.B = x.size(1);
  layer.I = x.size(2);
  layer.H = W_hh.size(0) / kGates;
  layer.P = W_hh.size(1);
  return x.is_cpu() && cpu::runs_directions_at_once(layer, cpu::most_threads());
}

// run(k) for each of n directions of a layer; made(k) is what it has made then.
template <class Run, class Made>
void for_each_direction(int64_t n, const at::Tensor& x, const at::Tensor& W_hh, const Run& run,
                        [[maybe_unused]] const Made& made) {
#ifdef RNNDROP_WITH_CUDA
  if (n == 2 && x.is_cuda()) {
    const auto second = [&] {
      run(1);
      return made(1);
    };
    return cuda::on_two_streams(x.device(), [&] { run(0); }, second);
  }
#endif
  if (n < 2 || !runs_directions_at_once(x, W_hh)) {
    for (int64_t k = 0; k < n; ++k) run(k);
    return;
  }
  const at::ThreadLocalState modes;
  cpu::parallel_for(n, 1, [&](int64_t begin, int64_t end) {
    const at::ThreadLocalStateGuard same_modes(modes);
    for (int64_t k = begin; k < end; ++k) run(k);
  });
}

}  // namespace rnndrop
