#include "cpu/layer_engine.h"

#include "cpu/types_of.h"

namespace rnndrop::cpu {

void layer_forward(const LayerForward& layer, const PackedWeights& packed) {
  in_types_of(layer.dtype, [&]<class S, class T>(Types<S, T>) { forward_in<S, T>(layer, packed); });
}

void layer_backward(const LayerBackward& layer) {
  in_types_of(layer.dtype, [&]<class S, class T>(Types<S, T>) { backward_in<S, T>(layer); });
}

}  // namespace rnndrop::cpu
