#include "cpu/step_kernels.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <stdexcept>

namespace rnndrop::cpu {
namespace {

const StepKernels& kernels_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::float64: return step_kernels<double>();
    case Dtype::float32: return step_kernels<float>();
    case Dtype::bfloat16: return step_kernels<c10::BFloat16>();
    case Dtype::float16: return step_kernels<c10::Half>();
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
