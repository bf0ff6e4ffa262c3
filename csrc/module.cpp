// The Python module rnndrop_cuda._C: loading it registers the ops; it says what was built and what runs.
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/util/SmallVector.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/Generator.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/library.h>

#include "build_facts.h"
#include "by_length.h"
#include "cpu/amx_gemm.h"
#include "cpu/vector_isa.h"
#include "cuda/recurrence_plan.h"
#include "dropout_mask.h"
#include "layer_node.h"
#include "lstm_layer.h"
#include "plain_call.h"
#include "python_arguments.h"
#ifdef RNNDROP_WITH_CUDA
#include "cuda/backend.h"
#endif

TORCH_LIBRARY(rnndrop, m) {
  m.def(rnndrop::kLayerSchema);
  m.def(rnndrop::kLayerBackwardSchema);
  m.def(rnndrop::kDropoutMaskSchema);
  m.def(rnndrop::kDrawDropoutMasksSchema, {at::Tag::nondeterministic_seeded});
}

namespace {

rnndrop::Dtype dtype_named(const std::string& name) {
  using rnndrop::Dtype;
  for (const Dtype dtype : {Dtype::float64, Dtype::float32, Dtype::bfloat16, Dtype::float16}) {
    if (name == name_of(dtype)) return dtype;
  }
  throw std::invalid_argument("dtype: expected float64, float32, bfloat16 or float16, got " + name);
}

// The op's tensors as Python hands them over. By hand: a short sequence takes as long as torch.ops takes to read them.
struct GivenTensors {
  static constexpr Py_ssize_t kTensors = 15;
  explicit GivenTensors(PyObject* const* args)
      : x(rnndrop::tensor_of(args[0])),
        h_0(rnndrop::optional_of(args[1])),
        c_0(rnndrop::optional_of(args[2])),
        W_ih(rnndrop::tensor_of(args[3])),
        W_hh(rnndrop::tensor_of(args[4])),
        b_ih(rnndrop::optional_of(args[5])),
        b_hh(rnndrop::optional_of(args[6])),
        W_hr(rnndrop::optional_of(args[7])),
        mask_x(rnndrop::optional_of(args[8])),
        mask_h(rnndrop::optional_of(args[9])),
        mask_g(rnndrop::optional_of(args[10])),
        mask_c(rnndrop::optional_of(args[11])),
        zone_c(rnndrop::optional_of(args[12])),
        zone_h(rnndrop::optional_of(args[13])),
        lengths(rnndrop::optional_of(args[14])) {}

  rnndrop::LayerDirection in_direction(bool reverse) const {
    return {{x, h_0, c_0, W_ih, W_hh, b_ih, b_hh, W_hr, mask_x, mask_h, mask_g, mask_c, zone_c, zone_h, lengths},
            reverse};
  }

  const at::Tensor& x;
  rnndrop::OptionalTensor h_0, c_0;
  const at::Tensor &W_ih, &W_hh;
  rnndrop::OptionalTensor b_ih, b_hh, W_hr, mask_x, mask_h, mask_g, mask_c, zone_c, zone_h, lengths;
};

PyObject* tuple_of(const rnndrop::ForwardResult& outputs) {
  PyObject* const tuple = PyTuple_New(std::tuple_size_v<rnndrop::ForwardResult>);
  if (!tuple) throw python_error();
  Py_ssize_t k = 0;
  std::apply([&](const auto&... output) { (PyTuple_SET_ITEM(tuple, k++, THPVariable_Wrap(output)), ...); }, outputs);
  return tuple;
}

// lstm_layer(*tensors, reverse, save): lstm_layer_with_node in one direction.
PyObject* lstm_layer(PyObject* /*module*/, PyObject* const* args, Py_ssize_t n) {
  HANDLE_TH_ERRORS
  constexpr Py_ssize_t kArguments = GivenTensors::kTensors + 2;
  TORCH_CHECK_TYPE(n == kArguments, "lstm_layer: expected ", kArguments, " arguments, got ", n);
  const GivenTensors given(args);
  const bool reverse = PyObject_IsTrue(args[kArguments - 2]) == 1, save = PyObject_IsTrue(args[kArguments - 1]) == 1;
  if (PyErr_Occurred()) return nullptr;
  return tuple_of([&] {
    const pybind11::gil_scoped_release others_run;
    return rnndrop::lstm_layer_with_node(given.in_direction(reverse), save)[0];
  }());
  END_HANDLE_TH_ERRORS
}

// lstm_layer_both_ways(tensors, tensors of the second direction, save).
PyObject* lstm_layer_both_ways(PyObject* /*module*/, PyObject* const* args, Py_ssize_t n) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(n == 3, "lstm_layer_both_ways: expected 3 arguments, got ", n);
  const auto given = [&](PyObject* tensors) {
    TORCH_CHECK_TYPE(PyTuple_Check(tensors) && PyTuple_GET_SIZE(tensors) == GivenTensors::kTensors,
                     "lstm_layer_both_ways: expected a tuple of ", GivenTensors::kTensors, " tensors");
    return GivenTensors(&PyTuple_GET_ITEM(tensors, 0));
  };
  const GivenTensors forwards = given(args[0]), backwards = given(args[1]);
  const bool save = PyObject_IsTrue(args[2]) == 1;
  if (PyErr_Occurred()) return nullptr;
  const auto outputs = [&] {
    const pybind11::gil_scoped_release others_run;
    return rnndrop::lstm_layer_with_node({forwards.in_direction(false), backwards.in_direction(true)}, save);
  }();
  PyObject* const first = tuple_of(outputs[0]);
  return Py_BuildValue("NN", first, tuple_of(outputs[1]));
  END_HANDLE_TH_ERRORS
}

// longest_first(lengths, T, I, H, P, layers, directions): the order, or None.
PyObject* longest_first(PyObject* /*module*/, PyObject* const* args, Py_ssize_t n) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(n == 7, "longest_first: expected 7 arguments, got ", n);
  const auto size = [&](int k) { return PyLong_AsLongLong(args[k]); };
  const rnndrop::StackSizes sizes{size(1), size(2), size(3), size(4), size(5), size(6)};
  if (PyErr_Occurred()) return nullptr;
  const auto order = rnndrop::longest_first(rnndrop::tensor_of(args[0]), sizes);
  if (!order) Py_RETURN_NONE;
  return THPVariable_Wrap(*order);
  END_HANDLE_TH_ERRORS
}

// The items of a Python list, each of them read by `read`.
template <class Item>
c10::SmallVector<Item, 8> items_of(PyObject* list, Item (*read)(PyObject*)) {
  TORCH_CHECK_TYPE(PyList_Check(list), "expected a list, got ", Py_TYPE(list)->tp_name);
  c10::SmallVector<Item, 8> items;
  for (Py_ssize_t k = 0; k < PyList_GET_SIZE(list); ++k) items.push_back(read(PyList_GET_ITEM(list, k)));
  if (PyErr_Occurred()) throw python_error();
  return items;
}

// draw_dropout_masks(dims, sizes, drop, dropped, kept, like, generator): the op, for the dtype and device of `like`.
PyObject* draw_dropout_masks(PyObject* /*module*/, PyObject* const* args, Py_ssize_t n) {
  HANDLE_TH_ERRORS
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("rnndrop::draw_dropout_masks", "")
                             .typed<rnndrop::DrawDropoutMasks>();
  TORCH_CHECK_TYPE(n == 7, "draw_dropout_masks: expected 7 arguments, got ", n);
  const auto integers = [&](int k) {
    return items_of<int64_t>(args[k], [](PyObject* item) -> int64_t { return PyLong_AsLongLong(item); });
  };
  const auto dims = integers(0), sizes = integers(1), drop = integers(2);
  const auto dropped = items_of<double>(args[3], PyFloat_AsDouble), kept = items_of<double>(args[4], PyFloat_AsDouble);
  const at::Tensor& like = rnndrop::tensor_of(args[5]);
  std::optional<at::Generator> generator;
  if (args[6] != Py_None) {
    TORCH_CHECK_TYPE(THPGenerator_Check(args[6]), "expected a Generator, got ", Py_TYPE(args[6])->tp_name);
    generator = THPGenerator_Unwrap(args[6]);
  }
  const std::vector<at::Tensor> masks = [&] {
    const pybind11::gil_scoped_release others_run;
    return op.call(dims, sizes, drop, dropped, kept, like.scalar_type(), like.device(), std::move(generator));
  }();
  PyObject* const list = PyList_New(masks.size());
  if (!list) throw python_error();
  for (size_t k = 0; k < masks.size(); ++k) PyList_SET_ITEM(list, k, THPVariable_Wrap(masks[k]));
  return list;
  END_HANDLE_TH_ERRORS
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

#ifdef RNNDROP_WITH_CUDA
// The same with what the driver of the current device says, for a layer without noise on its state and lengths.
std::pair<std::string, std::string> explain_on_current_gpu(const std::string& dtype, bool tf32, int64_t T, int64_t B,
                                                           int64_t H) {
  const auto why = [&](bool backward) {
    return rnndrop::cuda::plan_on_current_gpu({dtype_named(dtype), tf32, T, B, H, backward}, /*general=*/false).why;
  };
  return {why(false), why(true)};
}
#endif

template <class Function>
PyCFunction fast(Function* function) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(function));
}

// What small calls spend their time on: Python's own protocol, which is faster than pybind11.
PyMethodDef fast_calls[] = {
    {"lstm_layer", fast(lstm_layer), METH_FASTCALL,
     "rnndrop::lstm_layer for eager calls, its derivative a node in C++."},
    {"lstm_layer_both_ways", fast(lstm_layer_both_ways), METH_FASTCALL,
     "The same in both directions, which may run at once."},
    {"plain_call", fast(rnndrop::plain_call), METH_FASTCALL,
     "A plain call of the module, all of it in C++; None for any other."},
    {"draw_dropout_masks", fast(draw_dropout_masks), METH_FASTCALL, "rnndrop::draw_dropout_masks for eager calls."},
    {"longest_first", fast(longest_first), METH_FASTCALL,
     "The order of samples in which the CPU leaves out what has ended."},
    {"pack_layers", rnndrop::pack_layers, METH_O, "Weights packed for plain_call."},
    {nullptr, nullptr, 0, nullptr}};

}  // namespace

PYBIND11_MODULE(_C, m) {
  PyModule_AddFunctions(m.ptr(), fast_calls);
  m.doc() = "Compiled kernels of rnndrop_cuda; the ops are in torch.ops.rnndrop.";
  m.def("build_facts_json", [] { return RNNDROP_BUILD_FACTS; }, "JSON object: what this extension was built with.");
  m.def("uses_amx", rnndrop::cpu::amx::is_there, "Whether the CPU kernels multiply bfloat16 by AMX's tiles.");
  m.def("vector_isa", [] { return rnndrop::cpu::vector_isa(); }, "Vector code the CPU kernels use on this machine.");
  m.def("cuda_engine", [] { return name_of(rnndrop::cuda::wanted_engine); }, "The CUDA engine that is asked for.");
  m.def(
      "set_cuda_engine",
      [](const std::string& name) { rnndrop::cuda::wanted_engine = rnndrop::cuda::engine_named(name); },
      "Ask for a CUDA engine by name, in the whole process.");
  m.def(
      "set_cuda_trials",
      [](bool registers, int64_t prefetch, int64_t pieces, int64_t multicast) {
        const auto within = [](int64_t n, int64_t least, int64_t most) {
          return static_cast<uint8_t>(std::clamp<int64_t>(n, least, most));
        };
        rnndrop::cuda::wanted_trials = rnndrop::cuda::Trials{
            registers, within(prefetch, 0, rnndrop::cuda::kMaxPrefetch), within(pieces, 1, rnndrop::cuda::kMaxPieces),
            within(multicast, 0, rnndrop::cuda::kMaxShare)};
      },
      pybind11::kw_only(), pybind11::arg("registers") = rnndrop::cuda::Trials().registers,
      pybind11::arg("prefetch") = rnndrop::cuda::Trials().prefetch,
      pybind11::arg("pieces") = rnndrop::cuda::Trials().pieces,
      pybind11::arg("multicast") = rnndrop::cuda::Trials().multicast,
      "What a plan may have, in the whole process; all else is as it is by default: see Trials in recurrence_plan.h.");
#ifdef RNNDROP_WITH_CUDA
  m.def("explain_on_current_gpu", explain_on_current_gpu, "The same for the current GPU, as its driver has it.");
  m.def("timed_cuda_plans", rnndrop::cuda::timed_plans,
        "The plans that torch.backends.cudnn.benchmark has had timed, a line for each.");
#endif
  m.def("explain_cuda_engine", explain_cuda_engine, "Why a recurrence runs on which engine: (forward, backward).");
}
