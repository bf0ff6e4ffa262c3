// Which types a layer of a dtype is computed in: 16 bits are multiplied as they are where the processor can, else
// widened.
#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <stdexcept>

#include "cpu/bfloat16_gemm.h"
#include "params.h"

namespace rnndrop::cpu {

// S is what tensors are stored in, T what is multiplied.
template <class S, class T>
struct Types {};

// run(Types<S, T>())
template <class Run>
auto in_types_of(Dtype dtype, const Run& run) {
  using c10::BFloat16, c10::Half;
  switch (dtype) {
    case Dtype::float64: return run(Types<double, double>());
    case Dtype::float32: return run(Types<float, float>());
    case Dtype::bfloat16: return has_bfloat16_gemm() ? run(Types<BFloat16, BFloat16>()) : run(Types<BFloat16, float>());
    case Dtype::float16: return run(Types<Half, float>());
  }
  throw std::logic_error("in_types_of: no such dtype");
}

}  // namespace rnndrop::cpu
