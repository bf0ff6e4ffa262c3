#include "permute_samples.h"

#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cstring>

#include "cpu/threads.h"
#include "plain_tensor.h"

namespace rnndrop {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Fewer bytes than this are not worth waking the other threads for.
constexpr int64_t kEnoughForSeveral = 1 << 17;

Tensor copy_of(const Tensor& x, const Tensor& order) {
  const int64_t T = x.size(0), B = x.size(1), n = x.size(2), bytes = n * x.element_size();
  const Tensor rows = n <= 1 || x.stride(2) == 1 ? x : x.contiguous();
  const Tensor out = at::empty({T, B, n}, x.options());
  const int64_t of_step = rows.stride(0) * x.element_size(), of_sample = rows.stride(1) * x.element_size();
  const auto* from = static_cast<const char*>(rows.const_data_ptr());
  auto* to = static_cast<char*>(out.mutable_data_ptr());
  const int64_t* samples = order.const_data_ptr<int64_t>();
  const int64_t steps_at_once = kEnoughForSeveral / std::max<int64_t>(B * bytes, 1) + 1;
  cpu::parallel_for(T, steps_at_once, [=](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t b = 0; b < B; ++b) {
        std::memcpy(to + (t * B + b) * bytes, from + t * of_step + samples[b] * of_sample, bytes);
      }
    }
  });
  return out;
}

struct Permutation : torch::autograd::Function<Permutation> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& order, const Tensor& back) {
    ctx->save_for_backward({order, back});
    return copy_of(x, order);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& upstream) {
    const variable_list saved = ctx->get_saved_variables();
    const Tensor &order = saved[0], &back = saved[1], &dy = upstream[0];
    return {is_plain(dy) ? permute_samples(dy, back, order) : dy.index_select(1, back), Tensor(), Tensor()};
  }
};

}  // namespace

Tensor permute_samples(const Tensor& x, const Tensor& order, const Tensor& back) {
  const bool differentiated = at::GradMode::is_enabled() && x.requires_grad();
  return differentiated ? Permutation::apply(x, order, back) : copy_of(x, order);
}

}  // namespace rnndrop
