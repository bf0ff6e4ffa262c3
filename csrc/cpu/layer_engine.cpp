// Which code runs a layer of which dtype: a 16-bit type is multiplied as it is where the processor can, else widened.
#include "cpu/layer_engine.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <stdexcept>

#include "cpu/bfloat16_gemm.h"

namespace rnndrop::cpu {

void layer_forward(const LayerForward& layer) {
  using c10::BFloat16, c10::Half;
  switch (layer.dtype) {
    case Dtype::float64: return forward_in<double, double>(layer);
    case Dtype::float32: return forward_in<float, float>(layer);
    case Dtype::bfloat16:
      return has_bfloat16_gemm() ? forward_in<BFloat16, BFloat16>(layer) : forward_in<BFloat16, float>(layer);
    case Dtype::float16: return forward_in<Half, float>(layer);
  }
  throw std::logic_error("layer_forward: no such dtype");
}

void layer_backward(const LayerBackward& layer) {
  using c10::BFloat16, c10::Half;
  switch (layer.dtype) {
    case Dtype::float64: return backward_in<double, double>(layer);
    case Dtype::float32: return backward_in<float, float>(layer);
    case Dtype::bfloat16:
      return has_bfloat16_gemm() ? backward_in<BFloat16, BFloat16>(layer) : backward_in<BFloat16, float>(layer);
    case Dtype::float16: return backward_in<Half, float>(layer);
  }
  throw std::logic_error("layer_backward: no such dtype");
}

}  // namespace rnndrop::cpu
