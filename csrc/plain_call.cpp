#include "plain_call.h"

#include <ATen/PythonTorchFunctionTLS.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <pybind11/pybind11.h>
#include <torch/csrc/Dtype.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "by_length.h"
#include "layer_stack.h"
#include "plain_tensor.h"
#include "python_arguments.h"

namespace rnndrop {
namespace {

using at::Tensor;
using c10::DispatchKey, c10::DispatchKeySet;

// Whether the ops run on tensors of a device.
bool has_kernels(const c10::Device& device) {
#ifdef RNNDROP_WITH_CUDA
  if (device.is_cuda()) return true;
#endif
  return device.is_cpu();
}

// Tracers, torch.func, modes and, unless the call casts as it would, autocast see what the layer does step by step.
bool somebody_listens(const c10::Device& device, bool casts) {
  const DispatchKeySet listening = c10::impl::tls_local_dispatch_key_set().included_;
  return (listening.raw_repr() & ~c10::default_included_set.raw_repr()) != 0 ||
         at::impl::torch_function_mode_enabled() ||
         // at::autocast::is_autocast_enabled, whose header takes the compiler as long as all others together.
         (!casts && !c10::impl::tls_is_dispatch_key_excluded(device.is_cpu() ? DispatchKey::AutocastCPU
                                                                             : DispatchKey::AutocastCUDA));
}

struct Options {
  int64_t input_size, hidden_size, proj_size;
  bool bidirectional, batch_first;
};

bool is_float(at::ScalarType dtype) {
  return dtype == at::kFloat || dtype == at::kDouble || dtype == at::kBFloat16 || dtype == at::kHalf;
}

// What x and all that is like it have in common; the type only where nothing is cast.
struct Kind {
  Kind(const Tensor& x, bool casts) : dtype(x.scalar_type()), device(x.device()), casts(casts) {}
  bool has(at::ScalarType other) const { return casts ? is_float(other) && other != at::kDouble : other == dtype; }
  at::ScalarType dtype;
  c10::Device device;
  bool casts;
};

// A plain tensor like x. It is held, since others may run and put something else into its place.
std::optional<Tensor> plain_tensor(PyObject* object, const Kind& kind, at::IntArrayRef shape) {
  if (!object || !THPVariable_CheckExact(object)) return std::nullopt;
  const Tensor& tensor = THPVariable_Unpack(object);
  const bool fits = is_plain(tensor) && kind.has(tensor.scalar_type()) && tensor.device() == kind.device;
  return fits && tensor.sizes() == shape ? std::optional(tensor) : std::nullopt;
}

// A module's weights, of every layer and direction one behind another.
struct Weights {
  PyObject *layer, *parameters, *names, *flat;  // the module, its _parameters, _all_weights and _flat_weights

  bool are_there() const { return PyDict_Check(parameters) && PyList_Check(names) && PyList_Check(flat); }

  // use(parameter, weight in the list) for each; false where one is no parameter.
  template <class Use>
  bool for_each(const Use& use) const {
    for (Py_ssize_t k = 0, at = 0; k < PyList_GET_SIZE(names); ++k) {
      PyObject* const of_run = PyList_GET_ITEM(names, k);
      for (Py_ssize_t i = 0; PyList_Check(of_run) && i < PyList_GET_SIZE(of_run); ++i, ++at) {
        PyObject* const weight = PyDict_GetItem(parameters, PyList_GET_ITEM(of_run, i));
        if (!weight || at >= PyList_GET_SIZE(flat)) return false;
        use(weight, PyList_GET_ITEM(flat, at));
      }
    }
    return true;
  }

  // Borrowed; empty where not all are parameters. LikeTorch._weights says what counts where the list has others.
  std::vector<PyObject*> read() const {
    bool is_list_of_parameters = true, list_counts = false;
    const auto compare = [&](PyObject* weight, PyObject* in_list) { is_list_of_parameters &= weight == in_list; };
    if (!for_each(compare)) return {};
    if (!is_list_of_parameters) {
      const auto have_changed = pybind11::reinterpret_steal<pybind11::object>(
          PyObject_CallMethod(layer, "_parameters_have_changed", nullptr));
      if (!have_changed) throw python_error();
      list_counts = have_changed.ptr() == Py_False;
    }
    std::vector<PyObject*> weights;
    const auto take = [&](PyObject* weight, PyObject* in_list) { weights.push_back(list_counts ? in_list : weight); };
    return for_each(take) ? weights : std::vector<PyObject*>();
  }
};

// weights: n of them; K: features of the layer's input.
std::optional<StackLayer> layer_of(PyObject* const* weights, Py_ssize_t n, const Kind& kind, int64_t K,
                                   const Options& of) {
  const Py_ssize_t of_projection = of.proj_size ? 1 : 0;
  const bool has_bias = n == 4 + of_projection;
  if (!has_bias && n != 2 + of_projection) return std::nullopt;
  const int64_t H = of.hidden_size, P = of.proj_size ? of.proj_size : H;
  const auto find = [&](Py_ssize_t k, at::IntArrayRef shape) { return plain_tensor(weights[k], kind, shape); };
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
std::optional<StackState> state_of(PyObject* hx, const Kind& kind, at::IntArrayRef h_shape, at::IntArrayRef c_shape) {
  if (!PyTuple_Check(hx) || PyTuple_GET_SIZE(hx) != 2) return std::nullopt;
  const OptionalTensor h = plain_tensor(PyTuple_GET_ITEM(hx, 0), kind, h_shape);
  const OptionalTensor c = plain_tensor(PyTuple_GET_ITEM(hx, 1), kind, c_shape);
  if (!h || !c) return std::nullopt;
  return StackState{*h, *c};
}

// A plain tensor of a type that the kernels have.
std::optional<Tensor> floats(PyObject* object) {
  if (!THPVariable_CheckExact(object)) return std::nullopt;
  const Tensor& tensor = THPVariable_Unpack(object);
  return is_float(tensor.scalar_type()) && is_plain(tensor) && has_kernels(tensor.device()) ? std::optional(tensor)
                                                                                            : std::nullopt;
}

// A tensor of integers on a device, or None.
bool read_int64s(PyObject* object, const c10::Device& device, OptionalTensor& out) {
  if (object == Py_None) return true;
  if (!THPVariable_CheckExact(object)) return false;
  const Tensor& tensor = THPVariable_Unpack(object);
  if (!is_plain(tensor) || tensor.scalar_type() != at::kLong || tensor.device() != device) return false;
  out = tensor;
  return true;
}

std::optional<PackedBatch> packed_batch(PyObject* input) {
  if (!PyTuple_Check(input) || PyTuple_GET_SIZE(input) != 4) return std::nullopt;
  const std::optional<Tensor> data = floats(PyTuple_GET_ITEM(input, 0));
  OptionalTensor batch_sizes, sorted, unsorted;
  if (!data || !read_int64s(PyTuple_GET_ITEM(input, 1), at::kCPU, batch_sizes) || !batch_sizes ||
      !read_int64s(PyTuple_GET_ITEM(input, 2), data->device(), sorted) ||
      !read_int64s(PyTuple_GET_ITEM(input, 3), data->device(), unsorted)) {
    return std::nullopt;
  }
  const PackedBatch packed{*data, *batch_sizes, sorted, unsorted};
  return is_consistent(packed) ? std::optional(packed) : std::nullopt;
}

// Whether `lengths` is None, or B numbers from 0 to T: a tensor or a list, of which `out` is a copy, since a backward
// will read it. For a GPU the tensor there, in which they are what they are: nobody waits to see them.
bool read_lengths(PyObject* lengths, const c10::Device& device, int64_t T, int64_t B, OptionalTensor& out) {
  if (lengths == Py_None) return true;
  if (PyList_Check(lengths)) {
    if (!device.is_cpu()) return false;
    if (PyList_GET_SIZE(lengths) != B) return false;
    out = at::empty({B}, at::kLong);
    for (int64_t b = 0; b < B; ++b) {
      PyObject* const length = PyList_GET_ITEM(lengths, b);
      if (!PyLong_CheckExact(length)) return false;
      int overflows = 0;
      out->mutable_data_ptr<int64_t>()[b] = PyLong_AsLongLongAndOverflow(length, &overflows);
      if (overflows) return false;
    }
  } else if (!read_int64s(lengths, device, out) || out->dim() != 1 || out->size(0) != B) {
    return false;
  }
  if (!device.is_cpu()) return true;
  if (!PyList_Check(lengths)) out = out->clone(at::MemoryFormat::Contiguous);
  const int64_t* of = out->const_data_ptr<int64_t>();
  return std::all_of(of, of + B, [&](int64_t length) { return 0 <= length && length <= T; });
}

bool is_backend(PyObject* name, const c10::Device& device) {
  const auto is = [name](const char* other) { return PyUnicode_CompareWithASCIIString(name, other) == 0; };
  return PyUnicode_Check(name) && (is("auto") || is(device.is_cpu() ? "cpu" : "cuda"));
}

enum class Form { packed, unbatched, batch_first, time_first };

struct Call {
  Form form;
  StackInputs in;
  SampleOrder samples;
};

std::optional<Call> read(PyObject* input, bool is_packed, PyObject* hx, PyObject* lengths, const Weights& module,
                         PyObject* backend, bool casts, const Options& of) {
  if (!module.are_there()) return std::nullopt;
  Call call;
  StackInputs& in = call.in;
  in.directions = of.bidirectional ? 2 : 1;
  std::optional<PackedBatch> packed;  // unpacked when all else fits
  if (is_packed) {
    packed = packed_batch(input);
    if (!packed || lengths != Py_None || somebody_listens(packed->data.device(), casts)) return std::nullopt;
    call.form = Form::packed;
  } else {
    const std::optional<Tensor> x = floats(input);
    if (!x || (x->dim() != 2 && x->dim() != 3) || somebody_listens(x->device(), casts)) return std::nullopt;
    call.form = x->dim() == 2 ? Form::unbatched : of.batch_first ? Form::batch_first : Form::time_first;
    in.x = call.form == Form::unbatched ? x->unsqueeze(1) : of.batch_first ? x->transpose(0, 1) : *x;
  }
  const Tensor& x = packed ? packed->data : in.x;
  const int64_t T = packed ? packed->T() : x.size(0), B = packed ? packed->B() : x.size(1);
  const Kind kind(x, casts);
  // There nn.LSTM's c is of another type than its h.
  if (casts && of.proj_size && kind.device.is_cpu()) return std::nullopt;
  if (T == 0 || x.size(-1) != of.input_size || !is_backend(backend, kind.device) ||
      !read_lengths(lengths, kind.device, T, B, in.lengths)) {
    return std::nullopt;
  }
  const int64_t runs = PyList_GET_SIZE(module.names), P = of.proj_size ? of.proj_size : of.hidden_size;
  if (hx != Py_None) {
    const int64_t H = of.hidden_size;
    in.hx = call.form == Form::unbatched ? state_of(hx, kind, {runs, P}, {runs, H})
                                         : state_of(hx, kind, {runs, B, P}, {runs, B, H});
    if (!in.hx) return std::nullopt;
    if (call.form == Form::unbatched) in.hx = StackState{in.hx->h.unsqueeze(1), in.hx->c.unsqueeze(1)};
  }
  const std::vector<PyObject*> weights = module.read();
  const Py_ssize_t of_run = runs > 0 ? weights.size() / runs : 0;
  in.layers.reserve(runs);
  for (int64_t k = 0; k < runs; ++k) {
    const int64_t K = k < in.directions ? of.input_size : in.directions * P;
    auto layer = layer_of(weights.data() + k * of_run, of_run, kind, K, of);
    if (!layer) return std::nullopt;
    in.layers.push_back(std::move(*layer));
  }
  if (packed || (in.lengths && kind.device.is_cpu())) {
    const pybind11::gil_scoped_release others_run;
    call.samples = packed ? unpack(*packed, in) : sort_by_length(in);
  }
  return call;
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

// Puts the masks that `draw(T, B)` gives into the layers. False where one is no plain tensor on x's device, or is to be
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
      const Tensor& of_field = **fields[f];
      if (!is_plain(of_field) || of_field.device() != in.x.device() || of_field.requires_grad()) return false;
    }
  }
  return true;
}

// All tensors in one type.
void cast(StackInputs& in, at::ScalarType dtype) {
  const auto cast = [&](Tensor& tensor) {
    if (tensor.scalar_type() != dtype) tensor = tensor.to(dtype);
  };
  cast(in.x);
  if (in.hx) {
    cast(in.hx->h);
    cast(in.hx->c);
  }
  for (StackLayer& of : in.layers) {
    cast(of.W_ih);
    cast(of.W_hh);
    for (OptionalTensor* tensor : {&of.b_ih, &of.b_hh, &of.W_hr, &of.mask_x, &of.mask_h, &of.mask_g, &of.mask_w,
                                   &of.mask_y, &of.mask_c, &of.zone_c, &of.zone_h}) {
      if (*tensor) cast(**tensor);
    }
  }
}

constexpr const char* kPackedLayers = "rnndrop_cuda.PackedLayers";  // of the capsule

bool are_of(const PackedLayers& packed, const std::vector<StackLayer>& layers) {
  return std::equal(packed.begin(), packed.end(), layers.begin(), layers.end(),
                    [](const cpu::PackedLayer& layer, const StackLayer& w) { return layer.is_of(w.W_ih, w.W_hh); });
}

}  // namespace

PyObject* plain_call(PyObject* /*module*/, PyObject* const* args, Py_ssize_t n) {
  HANDLE_TH_ERRORS
  constexpr Py_ssize_t kArguments = 17;
  TORCH_CHECK_TYPE(n == kArguments, "plain_call: expected ", kArguments, " arguments, got ", n);
  const Options of{PyLong_AsLongLong(args[8]), PyLong_AsLongLong(args[9]), PyLong_AsLongLong(args[10]),
                   PyObject_IsTrue(args[11]) == 1, PyObject_IsTrue(args[12]) == 1};
  if (PyErr_Occurred()) return nullptr;
  const bool is_packed = args[1] == Py_True, casts = args[16] != Py_None;
  TORCH_CHECK_TYPE(!casts || THPDtype_Check(args[16]), "plain_call: expected a dtype, got ",
                   Py_TYPE(args[16])->tp_name);
  const Weights module{args[4], args[5], args[6], args[7]};
  std::optional<Call> call = read(args[0], is_packed, args[2], args[3], module, args[15], casts, of);
  if (!call) Py_RETURN_NONE;
  StackInputs& in = call->in;
  const bool differentiated = is_differentiated(in), draws = args[13] != Py_None;
  if (draws && !draw_masks(args[13], in)) Py_RETURN_NONE;
  const auto held = pybind11::reinterpret_borrow<pybind11::object>(args[14]);  // as the weights are
  const PackedLayers* packed = nullptr;
  if (!held.is_none() && !differentiated && !draws && !casts && !in.lengths) {
    packed = static_cast<const PackedLayers*>(PyCapsule_GetPointer(held.ptr(), kPackedLayers));
    if (!packed) return nullptr;
    if (!are_of(*packed, in.layers)) packed = nullptr;
  }
  const StackResult result = [&] {
    const pybind11::gil_scoped_release others_run;
    if (casts) cast(in, reinterpret_cast<THPDtype*>(args[16])->scalar_type);
    StackResult result = run_stack(in, call->samples, differentiated, packed);
    if (call->form == Form::batch_first) result.y = result.y.transpose(0, 1);
    if (call->form != Form::unbatched) return result;
    return StackResult{result.y.squeeze(1), {result.final.h.squeeze(1), result.final.c.squeeze(1)}};
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
