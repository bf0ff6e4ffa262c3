// What cublasGemmEx is told for a product of row-major matrices. Pure arithmetic, so that it is tested without a GPU.
//
// cuBLAS reads memory column by column, and so sees the transpose of every row-major matrix. out = a b is therefore
// asked for as out^T = b^T a^T: cuBLAS' first operand is our b, its m is out's width.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace rnndrop::cuda {

struct MatrixView {
  int64_t rows, cols;
  int64_t row_stride, col_stride;  // in elements
};

struct GemmOperand {
  bool transpose;
  int64_t leading_dimension;
};

struct GemmArguments {
  int64_t m, n, k;
  GemmOperand first, second;  // our b, our a
  int64_t ldc;
};

// The stride of a dimension of size 1 is never used, and torch leaves anything there; cuBLAS checks it all the same.
inline GemmOperand gemm_operand(const char* name, const MatrixView& view) {
  const int64_t rows = view.rows, cols = view.cols;
  if (cols <= 1 || view.col_stride == 1) {
    const int64_t leading = rows > 1 ? view.row_stride : std::max<int64_t>(cols, 1);
    if (leading >= std::max<int64_t>(cols, 1)) return {false, leading};
  } else if (rows <= 1 || view.row_stride == 1) {
    if (view.col_stride >= std::max<int64_t>(rows, 1)) return {true, view.col_stride};
  }
  throw std::invalid_argument(std::string("gemm: ") + name + " is neither row-major nor the transpose of it");
}

inline GemmArguments gemm_arguments(const MatrixView& out, const MatrixView& a, const MatrixView& b) {
  if (a.rows != out.rows || a.cols != b.rows || b.cols != out.cols) {
    throw std::invalid_argument("gemm: the shapes of out, a and b do not match");
  }
  const GemmOperand c = gemm_operand("out", out);
  if (c.transpose) throw std::invalid_argument("gemm: out is not row-major");
  return {out.cols, out.rows, a.cols, gemm_operand("b", b), gemm_operand("a", a), c.leading_dimension};
}

}  // namespace rnndrop::cuda
