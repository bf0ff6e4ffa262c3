#include <c10/util/Half.h>

#include "cpu/step_kernels_impl.h"

template const rnndrop::cpu::StepKernels& rnndrop::cpu::step_kernels<c10::Half>();
