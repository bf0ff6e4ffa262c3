// The CPU backend of the layer op: the engine for float32 and float64; for the rest ATen's GEMMs and the step kernels.
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>

#include "cpu/gemm.h"
#include "cpu/layer_engine.h"
#include "cpu/step_kernels.h"
#include "cpu/threads.h"
#include "lstm_layer.h"

namespace rnndrop {
namespace {

class CpuBackend final : public Backend {
 public:
  void gemm(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, bool accumulate) const override {
    cpu::gemm(out, a, b, accumulate);
  }

  // Few enough rows that what the GEMM leaves is still in the cache when the steps come to it, and the other way round
  // in the backward; enough for the GEMM to run at full speed. Not for the 16-bit types, whose sums would be rounded
  // once a chunk.
  int64_t steps_per_chunk(int64_t T, int64_t B, at::ScalarType dtype) const override {
    constexpr int64_t kRows = 1024;
    if (dtype == at::kHalf || dtype == at::kBFloat16) return T;
    return std::clamp<int64_t>(kRows / std::max<int64_t>(B, 1), 1, T);
  }

  void step_forward(const StepForward& step) const override {
    at::parallel_for(0, step.B, rows_per_task(step.H),
                     [&](int64_t begin, int64_t end) { cpu::step_forward(step, {begin, end, 0, step.H}, {}); });
  }

  void step_backward(const StepBackward& step) const override {
    at::parallel_for(0, step.B, rows_per_task(step.H),
                     [&](int64_t begin, int64_t end) { cpu::step_backward(step, {begin, end, 0, step.H}); });
  }

  bool layer_forward(const LayerForward& layer) const override {
    if (!has_engine(layer.dtype)) return false;
    cpu::layer_forward(layer);
    return true;
  }

  bool layer_backward(const LayerBackward& layer) const override {
    if (!has_engine(layer.dtype)) return false;
    cpu::layer_backward(layer);
    return true;
  }

 private:
  static bool has_engine(Dtype dtype) { return dtype == Dtype::float64 || dtype == Dtype::float32; }
  // Waking a thread takes a few microseconds: what it gets must be worth that.
  static int64_t rows_per_task(int64_t H) { return std::max<int64_t>(1, 4096 / H); }
};

CpuBackend make_backend(const at::Tensor& /*x*/) {
  cpu::check_not_forked();
  return {};
}

}  // namespace

TORCH_LIBRARY_IMPL(rnndrop, CPU, m) {
  m.impl("lstm_layer", OpKernel<lstm_layer_forward, make_backend>::call);
  m.impl("lstm_layer_backward", OpKernel<lstm_layer_backward, make_backend>::call);
}

}  // namespace rnndrop
