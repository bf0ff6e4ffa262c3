// A call of the module where nothing but its layers has a say: in eval, without a gradient, plain tensors on the CPU.
// All of it in C++, since Python takes twice as long as the arithmetic of a small layer's step.
#pragma once

#include <Python.h>

namespace rnndrop {

// plain_call(input, hx, parameters, names, input_size, hidden_size, bidirectional, batch_first, packed), for Python by
// METH_FASTCALL: (output, (h_n, c_n)) of a stack of layers without a projection. `parameters` has W_ih, W_hh and, with
// biases, b_ih and b_hh by the names that `names` has for each layer and direction; hx is None for zeros. `packed` is
// None, or what pack_layers made of the module's weights, which serves as long as all of them are what they were.
//
// None where the call is not a plain one, and where anything does not fit: the way by rnndrop_cuda.functional then
// takes it, and has the words for what is wrong.
PyObject* plain_call(PyObject* module, PyObject* const* args, Py_ssize_t n);

// pack_layers([W_ih, W_hh, ...]), of each layer and direction: a capsule for plain_call. METH_O.
PyObject* pack_layers(PyObject* module, PyObject* weights);

}  // namespace rnndrop
