// Which code runs a layer of which dtype.
#include "cpu/layer_engine.h"

#include <stdexcept>

#include "cpu/bfloat16_gemm.h"

namespace rnndrop::cpu {

bool engine_has(Dtype dtype) {
  switch (dtype) {
    case Dtype::float64:
    case Dtype::float32: return true;
    case Dtype::bfloat16: return has_bfloat16_gemm();
    case Dtype::float16: return false;
  }
  throw std::logic_error("engine_has: no such dtype");
}

void layer_forward(const LayerForward& layer) {
  switch (layer.dtype) {
    case Dtype::float64: return forward_in<double>(layer);
    case Dtype::float32: return forward_in<float>(layer);
    case Dtype::bfloat16: return forward_in<c10::BFloat16>(layer);
    case Dtype::float16: break;
  }
  throw std::logic_error("layer_forward: the engine does not have this dtype");
}

void layer_backward(const LayerBackward& layer) {
  switch (layer.dtype) {
    case Dtype::float64: return backward_in<double>(layer);
    case Dtype::float32: return backward_in<float>(layer);
    case Dtype::bfloat16: return backward_in<c10::BFloat16>(layer);
    case Dtype::float16: break;
  }
  throw std::logic_error("layer_backward: the engine does not have this dtype");
}

}  // namespace rnndrop::cpu
