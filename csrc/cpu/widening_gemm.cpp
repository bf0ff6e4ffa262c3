// The kernels of unpacked_gemm.cpp in intrinsics: a compiler does not know how to widen float16 in a vector. Those of
// AVX-512 are here, those of AVX2 in widening_avx2.h.
#include "cpu/widening_gemm.h"

#include <stdexcept>
#include <string_view>

#include "cpu/avx512.h"
#include "cpu/vector_isa.h"
#include "cpu/widened_rows.h"
#include "cpu/widening_avx2.h"

namespace rnndrop::cpu {

bool has_widening_gemm() { return vector_isa() != std::string_view("baseline"); }

#ifdef RNNDROP_AVX512
namespace {

bool has_avx512() {
  static const bool has = vector_isa() == std::string_view("AVX512");
  return has;
}

constexpr int kLanes = 16;

// ---------------------------------------------------------------- by rows of w

template <int rows, int vectors, class T>
AVX512_INLINE void by_rows(float* c, int64_t ldc, const float* a, int64_t lda, int64_t K, const T* w, int64_t ldw) {
  __m512 sums[rows][vectors];
#pragma GCC unroll 4
  for (int m = 0; m < rows; ++m) {
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) sums[m][v] = _mm512_setzero_ps();
  }
  for (int64_t k = 0; k < K; ++k, ++a, w += ldw) {
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) {
      const __m512 b = widen(w + v * kLanes, __mmask16(-1));
#pragma GCC unroll 4
      for (int m = 0; m < rows; ++m) sums[m][v] = _mm512_fmadd_ps(_mm512_set1_ps(a[m * lda]), b, sums[m][v]);
    }
  }
#pragma GCC unroll 4
  for (int m = 0; m < rows; ++m) {
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) _mm512_storeu_ps(c + m * ldc + v * kLanes, sums[m][v]);
  }
}

template <int vectors, class T>
AVX512_INLINE int64_t by_rows_from(int64_t column, float* c, int64_t ldc, const float* a, int64_t lda, int64_t M,
                                   int64_t K, const T* w, int64_t ldw, int64_t n) {
  for (; column + vectors * kLanes <= n; column += vectors * kLanes) {
    int64_t m = 0;
    for (; m + 4 <= M && vectors <= 4; m += 4) {
      by_rows<4, vectors <= 4 ? vectors : 1>(c + m * ldc + column, ldc, a + m * lda, lda, K, w + column, ldw);
    }
    for (; m + 2 <= M; m += 2) by_rows<2, vectors>(c + m * ldc + column, ldc, a + m * lda, lda, K, w + column, ldw);
    if (m < M) by_rows<1, vectors>(c + m * ldc + column, ldc, a + m * lda, lda, K, w + column, ldw);
  }
  return column;
}

template <class T>
AVX512_KERNEL void all_by_rows(float* c, int64_t ldc, const float* a, int64_t lda, int64_t M, int64_t K, const T* w,
                               int64_t ldw, int64_t n) {
  int64_t column = 0;
  if (M <= 2) column = by_rows_from<8>(column, c, ldc, a, lda, M, K, w, ldw, n);
  column = by_rows_from<4>(column, c, ldc, a, lda, M, K, w, ldw, n);
  by_rows_from<2>(column, c, ldc, a, lda, M, K, w, ldw, n);
}

// ---------------------------------------------------------------- by columns of w^T

// rows * w_rows <= 16. Of the rows of w, n are there; the last stands in for the others. On the way they are fetched
// that lie `ahead` of these: a row of 16 bits ends before the processor's own prefetching has begun to pay.
template <int rows, int w_rows, class T>
AVX512_INLINE void by_columns(float* c, int64_t ldc, const float* a, int64_t lda, int64_t K, const T* w, int64_t ldw,
                              int64_t n, int64_t ahead) {
  __m512 sums[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) sums[i] = _mm512_setzero_ps();
  int64_t offset[w_rows];
#pragma GCC unroll 16
  for (int r = 0; r < w_rows; ++r) offset[r] = (r < n ? r : n - 1) * ldw;
  for (int64_t k = 0; k < K; k += kLanes) {
    const __mmask16 lanes = first_lanes(K - k < kLanes ? K - k : kLanes);
    __m512 of_rows[rows];
#pragma GCC unroll 8
    for (int m = 0; m < rows; ++m) of_rows[m] = _mm512_maskz_loadu_ps(lanes, a + m * lda + k);
#pragma GCC unroll 16
    for (int r = 0; r < w_rows; ++r) {
      const __m512 b = widen(w + offset[r] + k, lanes);
      _mm_prefetch(w + offset[r] + ahead + k, _MM_HINT_T1);
#pragma GCC unroll 8
      for (int m = 0; m < rows; ++m) sums[m * w_rows + r] = _mm512_fmadd_ps(of_rows[m], b, sums[m * w_rows + r]);
    }
  }
  alignas(64) float results[16];
  _mm512_store_ps(results, sums_of_lanes(sums));
  for (int m = 0; m < rows; ++m) {
    for (int r = 0; r < w_rows; ++r) {
      if (r < n) c[m * ldc + r] = results[m * w_rows + r];
    }
  }
}

template <int rows, class T>
AVX512_INLINE void of_rows_by_columns(float* c, int64_t ldc, const float* a, int64_t lda, int64_t K, const T* w,
                                      int64_t ldw, int64_t n) {
  constexpr int w_rows = 16 / rows;
  for (int64_t r = 0; r < n; r += w_rows) {
    const int64_t ahead = r + 2 * w_rows <= n ? w_rows * ldw : 0;
    by_columns<rows, w_rows>(c + r, ldc, a, lda, K, w + r * ldw, ldw, n - r, ahead);
  }
}

// An element of w is widened once for all rows of a: few of them are multiplied as it is read.
template <class T>
AVX512_KERNEL void all_by_columns(float* c, int64_t ldc, const float* a, int64_t lda, int64_t M, int64_t K, const T* w,
                                  int64_t ldw, int64_t n) {
  switch (M) {
    case 1: return of_rows_by_columns<1>(c, ldc, a, lda, K, w, ldw, n);
    case 2: return of_rows_by_columns<2>(c, ldc, a, lda, K, w, ldw, n);
    case 3: return of_rows_by_columns<3>(c, ldc, a, lda, K, w, ldw, n);
    case 4: return of_rows_by_columns<4>(c, ldc, a, lda, K, w, ldw, n);
    case 5: return of_rows_by_columns<5>(c, ldc, a, lda, K, w, ldw, n);
    case 6: return of_rows_by_columns<6>(c, ldc, a, lda, K, w, ldw, n);
    case 7: return of_rows_by_columns<7>(c, ldc, a, lda, K, w, ldw, n);
    case 8: return of_rows_by_columns<8>(c, ldc, a, lda, K, w, ldw, n);
  }
  const auto fetch = [&](const T* row) {
    for (int64_t k = 0; k < K; k += 2 * kLanes) _mm_prefetch(row + k, _MM_HINT_T1);
  };
  multiply_widened_rows(c, ldc, a, lda, M, K, w, ldw, n, fetch, [&](int64_t m, int64_t rows) {
    all_by_columns(c + m * ldc, ldc, a + m * lda, lda, rows, K, w, ldw, n);
  });
}

}  // namespace
#endif

#ifdef RNNDROP_AVX512
#define CALL(KERNEL, T) (has_avx512() ? KERNEL<T> : avx2::KERNEL<T>)(c, ldc, a, lda, M, K, w, ldw, n)
#else
#define CALL(KERNEL, T) throw std::logic_error("widening_gemm: this processor has none")
#endif
#define DEFINE(PRODUCT, KERNEL, T)                                                                                \
  void PRODUCT(float* c, int64_t ldc, const float* a, int64_t lda, int64_t M, int64_t K, const T* w, int64_t ldw, \
               int64_t n) {                                                                                       \
    CALL(KERNEL, T);                                                                                              \
  }
DEFINE(multiply_by_rows, all_by_rows, c10::BFloat16)
DEFINE(multiply_by_rows, all_by_rows, c10::Half)
DEFINE(multiply_by_columns, all_by_columns, c10::BFloat16)
DEFINE(multiply_by_columns, all_by_columns, c10::Half)

}  // namespace rnndrop::cpu
