#include "plain_call.h"

#include <ATen/PythonTorchFunctionTLS.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <pybind11/pybind11.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "layer_stack.h"
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

// No subclass, none of torch's wrappers and views that are not what they hold.
bool is_plain(const Tensor& tensor) {
  constexpr DispatchKeySet kPlain(
      {DispatchKey::CPU, DispatchKey::AutogradCPU, DispatchKey::ADInplaceOrView, DispatchKey::AutocastCPU});
  return (tensor.key_set().raw_repr() & ~kPlain.raw_repr()) == 0 && !tensor._fw_grad(/*level=*/0).defined();
}

struct Options {
  int64_t input_size, hidden_size, proj_size;
  bool bidirectional, batch_first;
};

// A plain tensor like x. It is held, since others may run and put something else into its place.
std::optional<Tensor> plain_tensor(PyObject* object, at::ScalarType dtype, at::IntArrayRef shape) {
  if (!object || !THPVariable_CheckExact(object)) return std::nullopt;
  const Tensor& tensor = THPVariable_Unpack(object);
  if (!is_plain(tensor) || tensor.scalar_type() != dtype || tensor.sizes() != shape) return std::nullopt;
  return tensor;
}

// K: features of the layer's input.
std::optional<StackLayer> layer_of(PyObject* parameters, PyObject* names, at::ScalarType dtype, int64_t K,
                                   const Options& of) {
  const Py_ssize_t n = PyList_Check(names) ? PyList_GET_SIZE(names) : 0, of_projection = of.proj_size ? 1 : 0;
  const bool has_bias = n == 4 + of_projection;
  if (!has_bias && n != 2 + of_projection) return std::nullopt;
  const int64_t H = of.hidden_size, P = of.proj_size ? of.proj_size : H;
  const auto find = [&](Py_ssize_t k, at::IntArrayRef shape) {
    return plain_tensor(PyDict_GetItem(parameters, PyList_GET_ITEM(names, k)), dtype, shape);
  };
  const OptionalTensor W_ih = find(0, {4 * H, K}), W_hh = find(1, {4 * H, P});
  if (!W_ih || !W_hh) return std::nullopt;
  StackLayer layer{*W_ih, *W_hh};
  if (has_bias) {
    layer.b_ih = find(2, {4 * H});
    layer.b_hh = find(3, {4 * H});
    if (!layer.b_ih || !layer.b_hh) return std::nullopt;
  }
  if (of.proj_size) {
    layer.W_hr = find(n - 1, {P, H});
    if (!layer.W_hr) return std::nullopt;
  }
  return layer;
}

// hx's pair; nullopt where it is none that fits.
std::optional<StackState> state_of(PyObject* hx, at::ScalarType dtype, at::IntArrayRef h_shape,
                                   at::IntArrayRef c_shape) {
  if (!PyTuple_Check(hx) || PyTuple_GET_SIZE(hx) != 2) return std::nullopt;
  const OptionalTensor h = plain_tensor(PyTuple_GET_ITEM(hx, 0), dtype, h_shape);
  const OptionalTensor c = plain_tensor(PyTuple_GET_ITEM(hx, 1), dtype, c_shape);
  if (!h || !c) return std::nullopt;
  return StackState{*h, *c};
}

std::optional<StackInputs> read(PyObject* input, PyObject* hx, PyObject* parameters, PyObject* names,
                                const Options& of) {
  if (somebody_listens() || !THPVariable_CheckExact(input) || !PyDict_Check(parameters) || !PyList_Check(names)) {
    return std::nullopt;
  }
  const Tensor& x = THPVariable_Unpack(input);
  if (!is_plain(x) || x.dim() != 3 || x.size(of.batch_first ? 1 : 0) == 0 || x.size(2) != of.input_size) {
    return std::nullopt;
  }
  const at::ScalarType dtype = x.scalar_type();
  if (dtype != at::kFloat && dtype != at::kDouble && dtype != at::kBFloat16 && dtype != at::kHalf) return std::nullopt;
  const int64_t runs = PyList_GET_SIZE(names), P = of.proj_size ? of.proj_size : of.hidden_size;
  StackInputs in{of.batch_first ? x.transpose(0, 1) : x, std::nullopt, {}, of.bidirectional ? 2 : 1};
  if (hx != Py_None) {
    const int64_t B = in.x.size(1);
    in.hx = state_of(hx, dtype, {runs, B, P}, {runs, B, of.hidden_size});
    if (!in.hx) return std::nullopt;
  }
  in.layers.reserve(runs);
  for (Py_ssize_t k = 0; k < runs; ++k) {
    const int64_t K = k < in.directions ? of.input_size : in.directions * P;
    auto layer = layer_of(parameters, PyList_GET_ITEM(names, k), dtype, K, of);
    if (!layer) return std::nullopt;
    in.layers.push_back(std::move(*layer));
  }
  return in;
}

bool is_differentiated(const StackInputs& in) {
  if (!at::GradMode::is_enabled()) return false;
  const auto requires_grad = [](const OptionalTensor& tensor) { return tensor && tensor->requires_grad(); };
  if (in.x.requires_grad() || (in.hx && (in.hx->h.requires_grad() || in.hx->c.requires_grad()))) return true;
  return std::any_of(in.layers.begin(), in.layers.end(), [&](const StackLayer& layer) {
    return layer.W_ih.requires_grad() || layer.W_hh.requires_grad() || requires_grad(layer.b_ih) ||
           requires_grad(layer.b_hh) || requires_grad(layer.W_hr);
  });
}

// Puts the masks that `draw(T, B)` gives into the layers. False where one is no plain tensor, or is to be
// differentiated; throws what `draw` raises.
bool draw_masks(PyObject* draw, StackInputs& in) {
  const auto drawn = pybind11::reinterpret_steal<pybind11::object>(
      PyObject_CallFunction(draw, "nn", Py_ssize_t(in.x.size(0)), Py_ssize_t(in.x.size(1))));
  if (!drawn) throw python_error();
  const Py_ssize_t runs = in.layers.size();
  if (!PyList_Check(drawn.ptr()) || PyList_GET_SIZE(drawn.ptr()) != runs) return false;
  for (Py_ssize_t k = 0; k < runs; ++k) {
    StackLayer& layer = in.layers[k];
    PyObject* const masks = PyList_GET_ITEM(drawn.ptr(), k);
    OptionalTensor* const fields[]{&layer.mask_x, &layer.mask_h, &layer.mask_g, &layer.mask_w,
                                   &layer.mask_y, &layer.mask_c, &layer.zone_c, &layer.zone_h};  // as in LayerMasks
    if (!PyTuple_Check(masks) || PyTuple_GET_SIZE(masks) != Py_ssize_t(std::size(fields))) return false;
    for (size_t f = 0; f < std::size(fields); ++f) {
      PyObject* const mask = PyTuple_GET_ITEM(masks, f);
      if (mask == Py_None) continue;
      if (!THPVariable_CheckExact(mask)) return false;
      *fields[f] = THPVariable_Unpack(mask);
      if (!is_plain(**fields[f]) || (*fields[f])->requires_grad()) return false;
    }
  }
  return true;
}

constexpr const char* kPackedLayers = "rnndrop_cuda.PackedLayers";  // of the capsule

bool are_of(const PackedLayers& packed, const std::vector<StackLayer>& layers) {
  return std::equal(packed.begin(), packed.end(), layers.begin(), layers.end(),
                    [](const cpu::PackedLayer& layer, const StackLayer& w) { return layer.is_of(w.W_ih, w.W_hh); });
}

}  // namespace

PyObject* plain_call(PyObject* /*module*/, PyObject* const* args, Py_ssize_t n) {
  HANDLE_TH_ERRORS
  constexpr Py_ssize_t kArguments = 11;
  TORCH_CHECK_TYPE(n == kArguments, "plain_call: expected ", kArguments, " arguments, got ", n);
  const Options of{PyLong_AsLongLong(args[4]), PyLong_AsLongLong(args[5]), PyLong_AsLongLong(args[6]),
                   PyObject_IsTrue(args[7]) == 1, PyObject_IsTrue(args[8]) == 1};
  if (PyErr_Occurred()) return nullptr;
  std::optional<StackInputs> in = read(args[0], args[1], args[2], args[3], of);
  if (!in) Py_RETURN_NONE;
  const bool differentiated = is_differentiated(*in), draws = args[9] != Py_None;
  if (draws && !draw_masks(args[9], *in)) Py_RETURN_NONE;
  const auto held = pybind11::reinterpret_borrow<pybind11::object>(args[10]);  // as the weights are
  const PackedLayers* packed = nullptr;
  if (!held.is_none() && !differentiated && !draws) {
    packed = static_cast<const PackedLayers*>(PyCapsule_GetPointer(held.ptr(), kPackedLayers));
    if (!packed) return nullptr;
    if (!are_of(*packed, in->layers)) packed = nullptr;
  }
  const StackResult result = [&] {
    const pybind11::gil_scoped_release others_run;
    StackResult result = run_stack(*in, differentiated, packed);
    if (of.batch_first) result.y = result.y.transpose(0, 1);
    return result;
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
