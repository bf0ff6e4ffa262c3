// The Python module rnndrop_cuda._C: loading it registers the ops; it says what was built and what runs.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/library.h>

#include "build_facts.h"
#include "cpu/vector_isa.h"
#include "cuda/recurrence_plan.h"
#include "dropout_mask.h"
#include "lstm_layer.h"

TORCH_LIBRARY(rnndrop, m) {
  m.def(rnndrop::kLayerSchema);
  m.def(rnndrop::kLayerBackwardSchema);
  m.def(rnndrop::kDropoutMaskSchema);
  m.def(rnndrop::kDrawDropoutMasksSchema, {at::Tag::nondeterministic_seeded});
}

namespace {

rnndrop::Dtype dtype_named(const std::string& name) {
  if (name == "float64") return rnndrop::Dtype::float64;
  if (name == "float32") return rnndrop::Dtype::float32;
  if (name == "bfloat16") return rnndrop::Dtype::bfloat16;
  if (name == "float16") return rnndrop::Dtype::float16;
  throw std::invalid_argument("dtype: expected float64, float32, bfloat16 or float16, got " + name);
}

// What the forward and the backward would run, and why; also in a build without CUDA.
std::pair<std::string, std::string> explain_cuda_engine(const std::string& dtype, bool tf32, int64_t T, int64_t B,
                                                        int64_t H, int major, int64_t n_sm, int64_t shared_memory) {
  const auto why = [&](bool backward) {
    const rnndrop::cuda::RecurrenceShape shape{dtype_named(dtype), tf32, T, B, H, backward};
    return choose_plan(shape, {major, n_sm, shared_memory}, rnndrop::cuda::wanted_engine).why;
  };
  return {why(false), why(true)};
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled kernels of rnndrop_cuda; the ops are in torch.ops.rnndrop.";
  m.def("build_facts_json", [] { return RNNDROP_BUILD_FACTS; }, "JSON object: what this extension was built with.");
  m.def("vector_isa", [] { return rnndrop::cpu::vector_isa(); }, "Vector code the CPU kernels use on this machine.");
  m.def("cuda_engine", [] { return name_of(rnndrop::cuda::wanted_engine); }, "The CUDA engine that is asked for.");
  m.def(
      "set_cuda_engine",
      [](const std::string& name) { rnndrop::cuda::wanted_engine = rnndrop::cuda::engine_named(name); },
      "Ask for a CUDA engine by name, in the whole process.");
  m.def(
      "set_cuda_input_parts", [](int64_t n) { rnndrop::cuda::wanted_parts = std::max<int64_t>(n, 1); },
      "In how many parts long sequences are projected beside the recurrence, in the whole process: 1 until measured.");
  m.def("explain_cuda_engine", explain_cuda_engine, "Why a recurrence runs on which engine: (forward, backward).");
}
