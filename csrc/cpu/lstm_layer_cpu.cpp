// The CPU backend of the layer op; the step kernels are spread over ATen's threads.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "cpu/gemm.h"
#include "cpu/step_kernels.h"
#include "lstm_layer.h"

namespace rnndrop {
namespace {

class CpuBackend final : public Backend {
 public:
  void gemm(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, bool accumulate) const override {
    cpu::gemm(out, a, b, accumulate);
  }

  void step_forward(const StepForward& step) const override {
    at::parallel_for(0, step.B, rows_per_task(step.H),
                     [&](int64_t begin, int64_t end) { cpu::step_forward(step, begin, end); });
  }

  void step_backward(const StepBackward& step) const override {
    at::parallel_for(0, step.B, rows_per_task(step.H),
                     [&](int64_t begin, int64_t end) { cpu::step_backward(step, begin, end); });
  }

 private:
  // Waking a thread takes a few microseconds: what it gets must be worth that.
  static int64_t rows_per_task(int64_t H) { return std::max<int64_t>(1, 4096 / H); }
};

ForwardResult forward(const at::Tensor& x, const at::Tensor& h_0, const at::Tensor& c_0, const at::Tensor& W_ih,
                      const at::Tensor& W_hh, const OptionalTensor& b_ih, const OptionalTensor& b_hh,
                      const OptionalTensor& mask_x, const OptionalTensor& mask_h, const OptionalTensor& mask_g,
                      const OptionalTensor& lengths, bool reverse) {
  return lstm_layer_forward(CpuBackend(), x, h_0, c_0, W_ih, W_hh, b_ih, b_hh, mask_x, mask_h, mask_g, lengths,
                            reverse);
}

BackwardResult backward(const OptionalTensor& dy, const OptionalTensor& dh_n, const OptionalTensor& dc_n,
                        const at::Tensor& x, const at::Tensor& h_0, const at::Tensor& W_ih, const at::Tensor& W_hh,
                        const OptionalTensor& mask_x, const OptionalTensor& mask_h, const OptionalTensor& mask_g,
                        const OptionalTensor& lengths, bool reverse, const at::Tensor& y, const at::Tensor& gates,
                        const at::Tensor& c, const at::Tensor& h_tilde, bool need_dx, bool need_dW) {
  return lstm_layer_backward(CpuBackend(), dy, dh_n, dc_n, x, h_0, W_ih, W_hh, mask_x, mask_h, mask_g, lengths, reverse,
                             y, gates, c, h_tilde, need_dx, need_dW);
}

}  // namespace

TORCH_LIBRARY_IMPL(rnndrop, CPU, m) {
  m.impl("lstm_layer", forward);
  m.impl("lstm_layer_backward", backward);
}

}  // namespace rnndrop
