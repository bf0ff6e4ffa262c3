// Toy kernels as torch operators on CPU tensors: the way in which the tests of real kernels run them.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <string>

#include "cuda_emulation.h"
#include "toy_kernels.h"

namespace {

at::Tensor matmul(const at::Tensor& a, const at::Tensor& b) {
  TORCH_CHECK(a.is_contiguous() && b.is_contiguous() && a.scalar_type() == at::kFloat, "contiguous float32 only");
  at::Tensor c = at::empty({a.size(0), b.size(1)}, a.options());
  const int error = toy::matmul(a.const_data_ptr<float>(), b.const_data_ptr<float>(), c.data_ptr<float>(), a.size(0),
                                b.size(1), a.size(1), nullptr);
  TORCH_CHECK(!error, "CUDA error ", error);
  return c;
}

at::Tensor rnn(const at::Tensor& w, const at::Tensor& x, int64_t blocks) {
  at::Tensor hs = at::zeros({x.size(0) + 1, w.size(0)}, x.options());
  const int error = toy::rnn_grid(w.const_data_ptr<float>(), x.const_data_ptr<float>(), hs.data_ptr<float>(), w.size(0),
                                  x.size(0), blocks, nullptr, nullptr);
  TORCH_CHECK(!error, "CUDA error ", error);
  return hs.slice(0, 1);
}

}  // namespace

TORCH_LIBRARY(toy, m) {
  m.def("matmul(Tensor a, Tensor b) -> Tensor");
  m.def("rnn(Tensor w, Tensor x, int blocks) -> Tensor");
  m.def("set_schedule(str name) -> ()", [](const std::string& name) { emu::config.set_schedule(name); });
  m.def("plant(int mistake) -> ()", [](int64_t mistake) { planted_mistake = static_cast<int>(mistake); });
}

TORCH_LIBRARY_IMPL(toy, CPU, m) {
  m.impl("matmul", matmul);
  m.impl("rnn", rnn);
}
