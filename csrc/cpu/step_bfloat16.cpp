#include <c10/util/BFloat16.h>

#include "cpu/step_kernels_impl.h"

template const rnndrop::cpu::StepKernels& rnndrop::cpu::step_kernels<c10::BFloat16>();
