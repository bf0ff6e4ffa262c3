// Matrix products with few rows, whose second operand, a weight, is read where it lies.
//
// Packing a weight reads and writes all of it, which is more work than to multiply a few rows with it. These kernels
// need no copy, and pay for that at every row: with sums across a vector, or strided reads. Floor for few rows: one
// reading of the weight from whichever cache holds it.
#pragma once

#include <cstdint>

namespace rnndrop::cpu {

// Columns that multiply_by_rows takes together, and the least K that multiply_by_columns takes: vectors of this CPU.
template <class acc_t>
int64_t unpacked_columns();
template <class acc_t>
int64_t least_unpacked_K();

// With so few rows in all, of every step, multiply_by_rows is worth more than one pass over the weight, of so many
// elements, to pack it.
template <class T>
int64_t most_rows_unpacked(int64_t elements);

// c[M, n] = a[M, K] w[K, n] for row-major operands whose rows lie lda, ldw and ldc elements apart; n is a multiple of
// unpacked_columns().
template <class acc_t>
void multiply_by_rows(acc_t* c, int64_t ldc, const acc_t* a, int64_t lda, int64_t M, int64_t K, const acc_t* w,
                      int64_t ldw, int64_t n);

// From so many rows on it is worth more to pack some rows of w than to multiply_by_columns, even if that is all that
// they are packed for.
template <class T>
int64_t least_rows_packed();

// c[M, n] = a[M, K] w[n, K]^T, with K >= least_unpacked_K().
template <class acc_t>
void multiply_by_columns(acc_t* c, int64_t ldc, const acc_t* a, int64_t lda, int64_t M, int64_t K, const acc_t* w,
                         int64_t ldw, int64_t n);

}  // namespace rnndrop::cpu
