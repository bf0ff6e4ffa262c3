// The tensors that Python hands to a function which reads its arguments by hand. Throws what Python shows as a
// TypeError.
#pragma once

#include <torch/csrc/autograd/python_variable.h>

#include "layer_inputs.h"

namespace rnndrop {

inline const at::Tensor& tensor_of(PyObject* argument) {
  TORCH_CHECK_TYPE(THPVariable_Check(argument), "expected a Tensor, got ", Py_TYPE(argument)->tp_name);
  return THPVariable_Unpack(argument);
}

inline OptionalTensor optional_of(PyObject* argument) {
  return argument == Py_None ? std::nullopt : OptionalTensor(tensor_of(argument));
}

}  // namespace rnndrop
