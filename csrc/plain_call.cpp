#include "plain_call.h"

#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/ThreadLocalState.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <pybind11/pybind11.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "cpu/backend.h"
#include "cpu/from_torch.h"
#include "cpu/layer_schedule.h"
#include "cpu/threads.h"
#include "layer_node.h"
#include "python_arguments.h"

namespace rnndrop {
namespace {

using at::Tensor;
using c10::DispatchKey, c10::DispatchKeySet;

// Tracers, torch.func, modes and autocast see what the layer does step by step.
bool somebody_listens() {
  const DispatchKeySet listening = c10::impl::tls_local_dispatch_key_set().included_;
  return (listening.raw_repr() & ~c10::default_included_set.raw_repr()) != 0 ||
         at::impl::torch_function_mode_enabled() ||
         // at::autocast::is_autocast_enabled, whose header takes the compiler as long as all others together.
         !c10::impl::tls_is_dispatch_key_excluded(DispatchKey::AutocastCPU);
}

// No subclass, none of torch's wrappers and views that are not what they hold, and nothing to differentiate.
bool is_plain(const Tensor& tensor) {
  constexpr DispatchKeySet kPlain(
      {DispatchKey::CPU, DispatchKey::AutogradCPU, DispatchKey::ADInplaceOrView, DispatchKey::AutocastCPU});
  return (tensor.key_set().raw_repr() & ~kPlain.raw_repr()) == 0 &&
         !(at::GradMode::is_enabled() && tensor.requires_grad()) && !tensor._fw_grad(/*level=*/0).defined();
}

struct Options {
  int64_t input_size, hidden_size;
  bool bidirectional, batch_first;
};

struct LayerWeights {
  Tensor W_ih, W_hh;
  OptionalTensor b_ih, b_hh;
};

struct State {
  Tensor h, c;  // [layers and directions, B, H]
};

struct Given {
  Tensor x;  // [T,B,I]
  std::optional<State> hx;
  std::vector<LayerWeights> weights;  // of each layer and direction
};

struct Result {
  Tensor y;
  State final;
};

// A plain tensor like x. It is held, since others may run and put something else into its place.
std::optional<Tensor> plain_tensor(PyObject* object, std::optional<at::ScalarType> dtype, at::IntArrayRef shape) {
  if (!object || !THPVariable_CheckExact(object)) return std::nullopt;
  const Tensor& tensor = THPVariable_Unpack(object);
  if (!is_plain(tensor) || tensor.scalar_type() != dtype || tensor.sizes() != shape) return std::nullopt;
  return tensor;
}

std::optional<LayerWeights> weights_of(PyObject* parameters, PyObject* names, at::ScalarType dtype, int64_t K,
                                       int64_t H) {
  const Py_ssize_t n = PyList_Check(names) ? PyList_GET_SIZE(names) : 0;
  if (n != 2 && n != 4) return std::nullopt;
  const auto find = [&](Py_ssize_t k, at::IntArrayRef shape) {
    return plain_tensor(PyDict_GetItem(parameters, PyList_GET_ITEM(names, k)), dtype, shape);
  };
  const OptionalTensor W_ih = find(0, {4 * H, K}), W_hh = find(1, {4 * H, H});
  if (!W_ih || !W_hh) return std::nullopt;
  if (n == 2) return LayerWeights{*W_ih, *W_hh, std::nullopt, std::nullopt};
  const OptionalTensor b_ih = find(2, {4 * H}), b_hh = find(3, {4 * H});
  if (!b_ih || !b_hh) return std::nullopt;
  return LayerWeights{*W_ih, *W_hh, b_ih, b_hh};
}

// hx's pair; nullopt where it is none that fits.
std::optional<State> state_of(PyObject* hx, at::ScalarType dtype, at::IntArrayRef shape) {
  if (!PyTuple_Check(hx) || PyTuple_GET_SIZE(hx) != 2) return std::nullopt;
  const OptionalTensor h = plain_tensor(PyTuple_GET_ITEM(hx, 0), dtype, shape);
  const OptionalTensor c = plain_tensor(PyTuple_GET_ITEM(hx, 1), dtype, shape);
  if (!h || !c) return std::nullopt;
  return State{*h, *c};
}

std::optional<Given> read(PyObject* input, PyObject* hx, PyObject* parameters, PyObject* names, const Options& of) {
  if (somebody_listens() || !THPVariable_CheckExact(input) || !PyDict_Check(parameters) || !PyList_Check(names)) {
    return std::nullopt;
  }
  const Tensor& x = THPVariable_Unpack(input);
  if (!is_plain(x) || x.dim() != 3 || x.size(of.batch_first ? 1 : 0) == 0 || x.size(2) != of.input_size) {
    return std::nullopt;
  }
  const at::ScalarType dtype = x.scalar_type();
  if (dtype != at::kFloat && dtype != at::kDouble && dtype != at::kBFloat16 && dtype != at::kHalf) return std::nullopt;
  Given given{of.batch_first ? x.transpose(0, 1) : x, std::nullopt, {}};
  const int64_t runs = PyList_GET_SIZE(names), directions = of.bidirectional ? 2 : 1;
  if (hx != Py_None) {
    given.hx = state_of(hx, dtype, {runs, given.x.size(1), of.hidden_size});
    if (!given.hx) return std::nullopt;
  }
  given.weights.reserve(runs);
  for (Py_ssize_t k = 0; k < runs; ++k) {
    const int64_t K = k < directions ? of.input_size : directions * of.hidden_size;
    auto weights = weights_of(parameters, PyList_GET_ITEM(names, k), dtype, K, of.hidden_size);
    if (!weights) return std::nullopt;
    given.weights.push_back(std::move(*weights));
  }
  return given;
}

// [layers and directions, B, H], without a copy of a single one.
Tensor stacked(const std::vector<Tensor>& states) {
  return states.size() == 1 ? states[0].unsqueeze_(0) : at::stack(states);
}

// Of each layer and direction, in a capsule of this name.
using PackedLayers = std::vector<cpu::PackedLayer>;
constexpr const char* kPackedLayers = "rnndrop_cuda.PackedLayers";

bool are_of(const PackedLayers& packed, const std::vector<LayerWeights>& weights) {
  return std::equal(packed.begin(), packed.end(), weights.begin(), weights.end(),
                    [](const cpu::PackedLayer& layer, const LayerWeights& w) { return layer.is_of(w.W_ih, w.W_hh); });
}

// Whether a layer that takes x in two directions runs them at once.
bool runs_at_once(const Tensor& x, int64_t H) {
  LayerProblem layer;
  layer.T = x.size(0);
  layer.B = x.size(1);
  layer.I = x.size(2);
  layer.H = layer.P = H;
  return cpu::runs_directions_at_once(layer, cpu::most_threads());
}

// run(0) and run(1), each on a thread, in the modes that this one is in.
template <class Run>
void at_once(const Run& run) {
  cpu::check_not_forked();
  const at::ThreadLocalState modes;
  cpu::parallel_for(2, 1, [&](int64_t begin, int64_t end) {
    const at::ThreadLocalStateGuard same_modes(modes);
    for (int64_t k = begin; k < end; ++k) run(k);
  });
}

// packed: null, or of these weights.
Result run(const Given& given, const Options& of, const PackedLayers* packed) {
  Tensor x = given.x, zeros;
  if (!given.hx) {  // at::zeros dispatches three times
    zeros = at::empty({x.size(1), of.hidden_size}, x.options());
    std::fill_n(static_cast<char*>(zeros.data_ptr()), zeros.nbytes(), char(0));
  }
  const int64_t runs = given.weights.size(), directions = of.bidirectional ? 2 : 1;
  std::vector<Tensor> final_h(runs), final_c(runs);
  for (int64_t first = 0; first < runs; first += directions) {
    std::array<Tensor, 2> outputs;
    const auto run_direction = [&](int64_t direction) {
      const int64_t k = first + direction;
      const LayerWeights& w = given.weights[k];
      const Tensor h_0 = given.hx ? given.hx->h.select(0, k) : zeros, c_0 = given.hx ? given.hx->c.select(0, k) : zeros;
      const bool reverse = direction == 1;
      auto [y, h_n, c_n, gates, c, h_full] =
          packed ? (*packed)[k].forward(x, h_0, c_0, w.W_ih, w.W_hh, w.b_ih, w.b_hh, reverse)
                 : lstm_layer_with_node(x, h_0, c_0, w.W_ih, w.W_hh, w.b_ih, w.b_hh, {}, {}, {}, {}, {}, {}, {}, {},
                                        reverse, /*save=*/false);
      outputs[direction] = std::move(y);
      final_h[k] = std::move(h_n);
      final_c[k] = std::move(c_n);
    };
    if (directions == 2 && runs_at_once(x, of.hidden_size)) {
      at_once(run_direction);
    } else {
      for (int64_t direction = 0; direction < directions; ++direction) run_direction(direction);
    }
    x = directions == 1 ? outputs[0] : at::cat({outputs[0], outputs[1]}, -1);
  }
  return {of.batch_first ? x.transpose(0, 1) : x, {stacked(final_h), stacked(final_c)}};
}

}  // namespace

PyObject* plain_call(PyObject* /*module*/, PyObject* const* args, Py_ssize_t n) {
  HANDLE_TH_ERRORS
  constexpr Py_ssize_t kArguments = 9;
  TORCH_CHECK_TYPE(n == kArguments, "plain_call: expected ", kArguments, " arguments, got ", n);
  const Options of{PyLong_AsLongLong(args[4]), PyLong_AsLongLong(args[5]), PyObject_IsTrue(args[6]) == 1,
                   PyObject_IsTrue(args[7]) == 1};
  if (PyErr_Occurred()) return nullptr;
  const std::optional<Given> given = read(args[0], args[1], args[2], args[3], of);
  if (!given) Py_RETURN_NONE;
  const auto held = pybind11::reinterpret_borrow<pybind11::object>(args[8]);  // as the weights are
  const PackedLayers* packed = nullptr;
  if (!held.is_none()) {
    packed = static_cast<const PackedLayers*>(PyCapsule_GetPointer(held.ptr(), kPackedLayers));
    if (!packed) return nullptr;
    if (!are_of(*packed, given->weights)) packed = nullptr;
  }
  const Result result = [&] {
    const pybind11::gil_scoped_release others_run;
    const at::AutoDispatchBelowADInplaceOrView no_views;
    return run(*given, of, packed);
  }();
  PyObject *const y = THPVariable_Wrap(result.y), *const h_n = THPVariable_Wrap(result.final.h);
  return Py_BuildValue("N(NN)", y, h_n, THPVariable_Wrap(result.final.c));
  END_HANDLE_TH_ERRORS
}

PyObject* pack_layers(PyObject* /*module*/, PyObject* weights) {
  HANDLE_TH_ERRORS
  TORCH_CHECK_TYPE(PyList_Check(weights), "pack_layers: expected a list, got ", Py_TYPE(weights)->tp_name);
  const auto weight = [&](Py_ssize_t k) -> const Tensor& { return tensor_of(PyList_GET_ITEM(weights, k)); };
  auto packed = std::make_unique<PackedLayers>();
  for (Py_ssize_t k = 0; k + 1 < PyList_GET_SIZE(weights); k += 2) packed->emplace_back(weight(k), weight(k + 1));
  PyObject* capsule = PyCapsule_New(packed.get(), kPackedLayers, [](PyObject* self) {
    delete static_cast<PackedLayers*>(PyCapsule_GetPointer(self, kPackedLayers));
  });
  if (capsule) packed.release();
  return capsule;
  END_HANDLE_TH_ERRORS
}

}  // namespace rnndrop
