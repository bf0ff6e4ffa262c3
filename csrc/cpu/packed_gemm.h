// Matrix products whose second operand is laid out in panels beforehand ("packed").
//
// A GEMM library packs at every call; here a weight is packed once a sequence, and the kernel runs at the speed of its
// multiplications from a single row on. It is also where dropped columns are left out: what is not packed is not
// multiplied, and the rows of the first operand are read at the kept columns only, without a copy.
#pragma once

#include <cstdint>

#include "cpu/buffer.h"

namespace rnndrop::cpu {

// Columns of a panel: two vectors of this CPU. A panel is packed [K, panel_width], one row of it after the other.
template <class acc_t>
int64_t panel_width();
inline constexpr int64_t kWidestPanel = 32;

// The products below with the first `columns` of a panel alone multiply and write as many as this: one vector or two.
template <class T>
int64_t columns_multiplied(int64_t columns);

// How many rows the kernel takes at once; multiples of it run fastest.
template <class T>
int64_t rows_at_once();
inline constexpr int64_t kMostRowsAtOnce = 32;

// Both operands of a product with a panel have zeros from K on, to a multiple of this.
template <class T>
int64_t K_at_once() {
  return 1;
}
template <class T>
int64_t padded(int64_t K) {
  return round_up(K, K_at_once<T>());
}

// Bytes that what a kernel reads again and again should not exceed: no CPU's first cache is smaller.
inline constexpr int64_t kFirstCache = 32 * 1024;
// What is larger comes from further away than the second cache.
inline constexpr int64_t kSecondCache = 512 * 1024;
// Whether a weight of so many bytes is too large to stay there from one reading to the next.
inline bool is_large(int64_t bytes) { return bytes >= 2 * kSecondCache; }
// Whether the third cache, of which other threads and what else a step reads have a share, is no place for it either.
inline bool is_far(int64_t bytes) { return bytes >= 24 * kSecondCache; }

// panel[K, panel_width] = rows[:][k]^T: lane l of each of its rows comes from rows[l], which are n; 0 where there is
// none.
template <class acc_t>
void pack_panel(acc_t* panel, const acc_t* const* rows, int64_t n, int64_t K);

// a[m, k] = data[m * stride + (columns ? columns[k] : k)]
template <class acc_t>
struct Rows {
  const acc_t* data;
  int64_t stride;
  const int32_t* columns;
};

// c[M, columns_multiplied(columns)] = a[M, K] panel; rows of c lie ldc elements apart.
template <class acc_t>
void multiply_panel(acc_t* c, int64_t ldc, const Rows<acc_t>& a, int64_t M, int64_t K, const acc_t* panel,
                    int64_t columns);

// a[M, K] panel
template <class acc_t>
struct Product {
  Rows<acc_t> a;
  int64_t K;
  const acc_t* panel;
};

// The same, begun from `first` [panel_width] or, where that is null, from 0, with a second product added, and a panel's
// two halves apart: half v of row m goes to c + m * row_stride + v * half_stride. Where one product has columns
// the other has them too, unless its K is 0. Rows are written in ascending order.
template <class acc_t>
void multiply_panel_halves(acc_t* c, int64_t row_stride, int64_t half_stride, const acc_t* first,
                           const Product<acc_t>& product, const Product<acc_t>& second, int64_t M);

// The first M <= rows_at_once() of the columns of in[K, ...] as rows [first, first + K) of out, for the product below;
// adds each column's sum to sums[the column]. in.columns is not null. After the last of them end_transposed(out, all
// rows). out: [padded(rows), rows_at_once()] elements.
template <class acc_t>
void pack_transposed(acc_t* out, int64_t first, const Rows<acc_t>& in, int64_t M, int64_t K, acc_t* sums);
template <class T>
void end_transposed(T* /*out*/, int64_t /*K*/) {}

// c[M, columns_multiplied(columns)] = a^T panel, or with `add` what is there and that, with 0 < M <= rows_at_once() and
// a as pack_transposed leaves it.
template <class acc_t>
void multiply_transposed(acc_t* c, int64_t ldc, const acc_t* a, int64_t M, int64_t K, const acc_t* panel,
                         int64_t columns, bool add);

}  // namespace rnndrop::cpu
