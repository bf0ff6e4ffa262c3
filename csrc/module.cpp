// The Python module rnndrop_cuda._C: loading it registers the ops; it says what was built and what runs.
#include <pybind11/pybind11.h>
#include <torch/library.h>

#include "build_facts.h"
#include "cpu/dropout_mask.h"
#include "cpu/vector_isa.h"
#include "lstm_layer.h"

TORCH_LIBRARY(rnndrop, m) {
  m.def(rnndrop::kLayerSchema);
  m.def(rnndrop::kLayerBackwardSchema);
  m.def(rnndrop::kDropoutMaskSchema);
}

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled kernels of rnndrop_cuda; the ops are in torch.ops.rnndrop.";
  m.def("build_facts_json", [] { return RNNDROP_BUILD_FACTS; }, "JSON object: what this extension was built with.");
  m.def("vector_isa", [] { return rnndrop::cpu::vector_isa(); }, "Vector code the CPU kernels use on this machine.");
}
