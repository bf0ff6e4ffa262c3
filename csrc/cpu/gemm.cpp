// ATen's product, except for so few rows that a library packs the other operand for longer than it multiplies.
#include "cpu/gemm.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>

#include <cstdint>

#include "cpu/buffer.h"
#include "cpu/threads.h"
#include "cpu/unpacked_gemm.h"

namespace rnndrop::cpu {
namespace {

// Few rows times a transposed weight, whose rows are then read where they lie; in short ones the sums across a vector
// would cost more than the library.
bool has_few_rows(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b) {
  constexpr int64_t kMostRows = 64, kColumnsForARow = 8, kFewestColumns = 128;
  const int64_t M = a.size(0), K = a.size(1);
  return M <= kMostRows && M * kColumnsForARow <= K && K >= kFewestColumns && a.stride(1) == 1 && b.stride(0) == 1 &&
         out.stride(1) == 1 && out.numel() > 0;
}

template <class T>
void multiply_few_rows(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, bool accumulate) {
  constexpr int64_t kEnoughForAThread = 1 << 18;  // multiplications
  const int64_t M = a.size(0), K = a.size(1);
  const T *rows = a.const_data_ptr<T>(), *weight = b.const_data_ptr<T>();
  T* sums = out.mutable_data_ptr<T>();
  parallel_for(b.size(1), kEnoughForAThread / (M * K) + 1, [&](int64_t begin, int64_t end) {
    const int64_t n = end - begin, ldw = b.stride(1);
    if (!accumulate) {
      return multiply_by_columns(sums + begin, out.stride(0), rows, a.stride(0), M, K, weight + begin * ldw, ldw, n);
    }
    const Buffer<T> product(M * n);
    multiply_by_columns(product.data(), n, rows, a.stride(0), M, K, weight + begin * ldw, ldw, n);
    for (int64_t m = 0; m < M; ++m) {
      T* row = sums + m * out.stride(0) + begin;
      for (int64_t k = 0; k < n; ++k) row[k] += product.data()[m * n + k];
    }
  });
}

}  // namespace

void gemm(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, bool accumulate) {
  if (out.numel() == 0) return;
  at::Tensor result = out;
  if (a.size(1) == 0) {  // not to a library: oneDNN has divided by a size of 0 when it copied 16-bit operands
    if (!accumulate) result.zero_();
    return;
  }
  if (has_few_rows(out, a, b)) {
    if (out.scalar_type() == at::kFloat) return multiply_few_rows<float>(out, a, b, accumulate);
    if (out.scalar_type() == at::kDouble) return multiply_few_rows<double>(out, a, b, accumulate);
  }
  if (accumulate) {
    at::addmm_out(result, result, a, b);
  } else {
    at::mm_out(result, a, b);
  }
}

}  // namespace rnndrop::cpu
