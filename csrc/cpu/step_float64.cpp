#include "cpu/step_kernels_impl.h"

template const rnndrop::cpu::StepKernels& rnndrop::cpu::step_kernels<double>();
