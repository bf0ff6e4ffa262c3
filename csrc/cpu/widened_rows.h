// A product by columns of w^T with a weight of a 16-bit type, for more rows of a than are multiplied as w is read.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/buffer.h"
#include "cpu/convert.h"
#include "cpu/unpacked_gemm.h"

namespace rnndrop::cpu {

// c[M, n] = a[M, K] w[n, K]^T. Some rows of w are widened at a time, which stay in the first cache until all rows of a
// have been multiplied with them. fetch(row) for each row that is widened the next time.
template <class T, class Fetch>
void multiply_widened_rows(float* c, int64_t ldc, const float* a, int64_t lda, int64_t M, int64_t K, const T* w,
                           int64_t ldw, int64_t n, const Fetch& fetch) {
  constexpr int64_t kBytes = 16 << 10, kFewest = 4;
  const int64_t at_once = std::max<int64_t>(kBytes / (K * sizeof(float)) / kFewest, 1) * kFewest;
  const Buffer<float> widened(std::min(at_once, n) * K);
  for (int64_t r = 0; r < n; r += at_once) {
    const int64_t rows = std::min(at_once, n - r);
    for (int64_t i = 0; i < rows; ++i) {
      const T* row = w + (r + i) * ldw;
      if (r + i + at_once < n) fetch(row + at_once * ldw);
      convert(widened.data() + i * K, row, K);
    }
    multiply_by_columns(c + r, ldc, a, lda, M, K, widened.data(), K, rows);
  }
}

}  // namespace rnndrop::cpu
