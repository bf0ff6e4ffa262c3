// A product by columns of w^T with a weight of a 16-bit type, for more rows of a than are multiplied as w is read.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/convert.h"
#include "cpu/unpacked_gemm.h"

namespace rnndrop::cpu {

// c[M, n] = a[M, K] w[n, K]^T. Some rows of w are widened at a time, which stay in the first cache until all rows of a
// have been multiplied with them. fetch(row) for each row that is widened the next time. Of longer rows too few would
// fit: as_read(m, rows) multiplies one, two or four rows of a from m on.
template <class T, class Fetch, class AsRead>
void multiply_widened_rows(float* c, int64_t ldc, const float* a, int64_t lda, int64_t M, int64_t K, const T* w,
                           int64_t ldw, int64_t n, const Fetch& fetch, const AsRead& as_read) {
  constexpr int64_t kInFirstCache = 4096, kFewest = 4, kLongest = 4096;
  if (K > kLongest) {
    for (int64_t m = 0, rows; m < M; m += rows) {
      rows = M - m >= 4 ? 4 : M - m >= 2 ? 2 : 1;
      as_read(m, rows);
    }
    return;
  }
  // On the stack: a member of a team must not allocate.
  alignas(64) float widened[kFewest * kLongest];
  const int64_t at_once = std::max<int64_t>(kInFirstCache / K / kFewest, 1) * kFewest;
  for (int64_t r = 0; r < n; r += at_once) {
    const int64_t rows = std::min(at_once, n - r);
    for (int64_t i = 0; i < rows; ++i) {
      const T* row = w + (r + i) * ldw;
      if (r + i + at_once < n) fetch(row + at_once * ldw);
      convert(widened + i * K, row, K);
    }
    multiply_by_columns(c + r, ldc, a, lda, M, K, widened, K, rows);
  }
}

}  // namespace rnndrop::cpu
