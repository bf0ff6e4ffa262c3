// A call of the module where nothing but its layers has a say: plain tensors, masks that it draws itself or none. All
// of it but the drawing is C++, since Python takes longer over a small layer than the kernels do.
#pragma once

#include <Python.h>

namespace rnndrop {

// plain_call(input, is_packed, hx, lengths, parameters, names, input_size, hidden_size, proj_size, bidirectional,
// batch_first, draw, packed, backend, dtype), for Python by METH_FASTCALL: (output, (h_n, c_n)) of the stack of layers.
// `parameters` has W_ih, W_hh, with biases b_ih and b_hh, and with a projection W_hr by the names that `names` has for
// each layer and direction. With is_packed input is a PackedSequence, and the output the data of one like it. hx is
// None for zeros; lengths is None, a tensor or a list. `draw(T, B)` gives a LayerMasks for each, or is None where there
// is no dropout. `packed` is None, or what pack_layers made of the module's weights, which serves as long as all of
// them are what they were. `backend` is the module's. `dtype` is None, or the one that autocast has the layer computed
// in.
//
// None where the call is not a plain one, and where anything does not fit: the way by rnndrop_cuda.functional then
// takes it, and has the words for what is wrong.
PyObject* plain_call(PyObject* module, PyObject* const* args, Py_ssize_t n);

// pack_layers([W_ih, W_hh, ...]), of each layer and direction: a capsule for plain_call. METH_O.
PyObject* pack_layers(PyObject* module, PyObject* weights);

}  // namespace rnndrop
