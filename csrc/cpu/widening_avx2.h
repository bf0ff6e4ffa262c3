// The kernels of widening_gemm.cpp for AVX2, which has no masks: a row's last elements come as a whole vector that
// begins before them.
#pragma once

#include "cpu/avx512.h"

#ifdef RNNDROP_AVX512

#include <cstdint>

#include "cpu/widened_rows.h"

#define AVX2_TARGET target("avx2,fma,f16c")
#define AVX2_KERNEL __attribute__((AVX2_TARGET))
#define AVX2_INLINE inline __attribute__((AVX2_TARGET, always_inline))

namespace rnndrop::cpu::avx2 {

constexpr int kLanes = 8;

AVX2_INLINE __m256 widen(const c10::BFloat16* in) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
AVX2_INLINE __m256 widen(const c10::Half* in) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in)));
}

// ---------------------------------------------------------------- by rows of w

template <int rows, int vectors, class T>
AVX2_INLINE void by_rows(float* c, int64_t ldc, const float* a, int64_t lda, int64_t K, const T* w, int64_t ldw) {
  __m256 sums[rows][vectors];
#pragma GCC unroll 4
  for (int m = 0; m < rows; ++m) {
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) sums[m][v] = _mm256_setzero_ps();
  }
  for (int64_t k = 0; k < K; ++k, ++a, w += ldw) {
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) {
      const __m256 b = widen(w + v * kLanes);
#pragma GCC unroll 4
      for (int m = 0; m < rows; ++m) sums[m][v] = _mm256_fmadd_ps(_mm256_broadcast_ss(a + m * lda), b, sums[m][v]);
    }
  }
#pragma GCC unroll 4
  for (int m = 0; m < rows; ++m) {
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) _mm256_storeu_ps(c + m * ldc + v * kLanes, sums[m][v]);
  }
}

template <int vectors, class T>
AVX2_INLINE int64_t by_rows_from(int64_t column, float* c, int64_t ldc, const float* a, int64_t lda, int64_t M,
                                 int64_t K, const T* w, int64_t ldw, int64_t n) {
  for (; column + vectors * kLanes <= n; column += vectors * kLanes) {
    int64_t m = 0;
    for (; m + 4 <= M && vectors <= 2; m += 4) {
      by_rows<4, vectors <= 2 ? vectors : 1>(c + m * ldc + column, ldc, a + m * lda, lda, K, w + column, ldw);
    }
    for (; m + 2 <= M && vectors <= 4; m += 2) {
      by_rows<2, vectors <= 4 ? vectors : 1>(c + m * ldc + column, ldc, a + m * lda, lda, K, w + column, ldw);
    }
    for (; m < M; ++m) by_rows<1, vectors>(c + m * ldc + column, ldc, a + m * lda, lda, K, w + column, ldw);
  }
  return column;
}

// The fewer the rows, the longer the runs of columns.
template <class T>
AVX2_KERNEL void all_by_rows(float* c, int64_t ldc, const float* a, int64_t lda, int64_t M, int64_t K, const T* w,
                             int64_t ldw, int64_t n) {
  int64_t column = 0;
  if (M == 1) column = by_rows_from<8>(column, c, ldc, a, lda, M, K, w, ldw, n);
  if (M <= 2) column = by_rows_from<4>(column, c, ldc, a, lda, M, K, w, ldw, n);
  by_rows_from<2>(column, c, ldc, a, lda, M, K, w, ldw, n);
}

// ---------------------------------------------------------------- by columns of w^T

// Lane l of the result is the sum of the lanes of v[l].
AVX2_INLINE __m256 sums_of_lanes(const __m256 (&v)[8]) {
  const __m256 first = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
  const __m256 second = _mm256_hadd_ps(_mm256_hadd_ps(v[4], v[5]), _mm256_hadd_ps(v[6], v[7]));
  return _mm256_add_ps(_mm256_permute2f128_ps(first, second, 0x20), _mm256_permute2f128_ps(first, second, 0x31));
}

// rows * w_rows = 8. Of the rows of w, n are there; the last stands in for the others.
template <int rows, class T>
AVX2_INLINE void by_columns(float* c, int64_t ldc, const float* a, int64_t lda, int64_t K, const T* w, int64_t ldw,
                            int64_t n) {
  constexpr int w_rows = 8 / rows;
  __m256 sums[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) sums[i] = _mm256_setzero_ps();
  int64_t offset[w_rows];
#pragma GCC unroll 8
  for (int r = 0; r < w_rows; ++r) offset[r] = (r < n ? r : n - 1) * ldw;
  int64_t k = 0;
  for (; k + kLanes <= K; k += kLanes) {
    __m256 of_rows[rows];
#pragma GCC unroll 4
    for (int m = 0; m < rows; ++m) of_rows[m] = _mm256_loadu_ps(a + m * lda + k);
#pragma GCC unroll 8
    for (int r = 0; r < w_rows; ++r) {
      const __m256 b = widen(w + offset[r] + k);
#pragma GCC unroll 4
      for (int m = 0; m < rows; ++m) sums[m * w_rows + r] = _mm256_fmadd_ps(of_rows[m], b, sums[m * w_rows + r]);
    }
  }
  if (k < K) {
    // Both factors are 0 at what was counted: 0 times an infinite one is none.
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256 left = _mm256_castsi256_ps(_mm256_cmpgt_epi32(lane, _mm256_set1_epi32(k + kLanes - K - 1)));
    k = K - kLanes;
#pragma GCC unroll 8
    for (int r = 0; r < w_rows; ++r) {
      const __m256 b = _mm256_and_ps(widen(w + offset[r] + k), left);
#pragma GCC unroll 4
      for (int m = 0; m < rows; ++m) {
        const __m256 of_row = _mm256_and_ps(_mm256_loadu_ps(a + m * lda + k), left);
        sums[m * w_rows + r] = _mm256_fmadd_ps(of_row, b, sums[m * w_rows + r]);
      }
    }
  }
  alignas(32) float results[8];
  _mm256_store_ps(results, sums_of_lanes(sums));
  for (int m = 0; m < rows; ++m) {
    for (int r = 0; r < w_rows && r < n; ++r) c[m * ldc + r] = results[m * w_rows + r];
  }
}

template <int rows, class T>
AVX2_INLINE void of_rows_by_columns(float* c, int64_t ldc, const float* a, int64_t lda, int64_t K, const T* w,
                                    int64_t ldw, int64_t n) {
  constexpr int w_rows = 8 / rows;
  for (int64_t r = 0; r < n; r += w_rows) by_columns<rows>(c + r, ldc, a, lda, K, w + r * ldw, ldw, n - r);
}

// One, two or four rows of a are multiplied as w is read; for more, rows of w are widened first.
template <class T>
AVX2_KERNEL void all_by_columns(float* c, int64_t ldc, const float* a, int64_t lda, int64_t M, int64_t K, const T* w,
                                int64_t ldw, int64_t n) {
  switch (M) {
    case 1: return of_rows_by_columns<1>(c, ldc, a, lda, K, w, ldw, n);
    case 2: return of_rows_by_columns<2>(c, ldc, a, lda, K, w, ldw, n);
    case 4: return of_rows_by_columns<4>(c, ldc, a, lda, K, w, ldw, n);
  }
  const auto as_read = [&](int64_t m, int64_t rows) {
    all_by_columns(c + m * ldc, ldc, a + m * lda, lda, rows, K, w, ldw, n);
  };
  multiply_widened_rows(c, ldc, a, lda, M, K, w, ldw, n, [](const T*) {}, as_read);
}

}  // namespace rnndrop::cpu::avx2
#endif
