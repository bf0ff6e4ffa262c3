// The kernels of widening_gemm.cpp for AVX2, which has no masks: a row's last elements come as a whole vector that
// begins before them.
#pragma once

#include "cpu/avx512.h"

#ifdef RNNDROP_AVX512

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "cpu/rows_of_a.h"

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

DEFINE_FOR_EACH_FOUR(AVX2_INLINE)

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
    for_each_four(M, [=](int64_t m, auto rows) __attribute__((AVX2_TARGET, always_inline)) {
      by_rows<rows.value, vectors>(c + m * ldc + column, ldc, a + m * lda, lda, K, w + column, ldw);
    });
  }
  return column;
}

// As in unpacked_gemm.cpp: few rows of c, while some rows of w at once are read from end to end.
template <int rows, int w_rows, class T>
AVX2_INLINE void add_whole_rows(float* c, int64_t ldc, const float* a, int64_t lda, const T* w, int64_t ldw,
                                int64_t n) {
  __m256 factors[rows][w_rows];
#pragma GCC unroll 4
  for (int m = 0; m < rows; ++m) {
#pragma GCC unroll 4
    for (int r = 0; r < w_rows; ++r) factors[m][r] = _mm256_broadcast_ss(a + m * lda + r);
  }
  for (int64_t j = 0; j < n; j += kLanes) {
    __m256 sums[rows];
#pragma GCC unroll 4
    for (int m = 0; m < rows; ++m) sums[m] = _mm256_loadu_ps(c + m * ldc + j);
#pragma GCC unroll 4
    for (int r = 0; r < w_rows; ++r) {
      const __m256 b = widen(w + r * ldw + j);
#pragma GCC unroll 4
      for (int m = 0; m < rows; ++m) sums[m] = _mm256_fmadd_ps(factors[m][r], b, sums[m]);
    }
#pragma GCC unroll 4
    for (int m = 0; m < rows; ++m) _mm256_storeu_ps(c + m * ldc + j, sums[m]);
  }
}

template <int rows, int w_rows, class T>
AVX2_INLINE void by_whole_rows(float* c, int64_t ldc, const float* a, int64_t lda, int64_t K, const T* w, int64_t ldw,
                               int64_t n) {
  for (int m = 0; m < rows; ++m) std::fill_n(c + m * ldc, n, 0.0f);
  int64_t k = 0;
  for (; k + w_rows <= K; k += w_rows) add_whole_rows<rows, w_rows>(c, ldc, a + k, lda, w + k * ldw, ldw, n);
  for (; k < K; ++k) add_whole_rows<rows, 1>(c, ldc, a + k, lda, w + k * ldw, ldw, n);
}

template <class T>
AVX2_KERNEL void all_by_rows(float* c, int64_t ldc, const float* a, int64_t lda, int64_t M, int64_t K, const T* w,
                             int64_t ldw, int64_t n) {
  if (by_whole_rows_of_w<32>(M, K * n * int64_t(sizeof(float)))) {
    return for_each_four(M, [=](int64_t m, auto rows) __attribute__((AVX2_TARGET, always_inline)) {
      by_whole_rows<rows.value, whole_rows_at_once<32>(rows.value)>(c + m * ldc, ldc, a + m * lda, lda, K, w, ldw, n);
    });
  }
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

// rows * w_rows <= 8. Of the rows of w, n are there; the last stands in for the others. Both factors of the last
// columns are 0 at what was counted, a's in a_end: 0 times an infinite one is none.
template <int rows, int w_rows, class T>
AVX2_INLINE void by_columns(float* c, int64_t ldc, const float* a, int64_t lda, const float* a_end, int64_t K,
                            const T* w, int64_t ldw, int64_t n) {
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
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256 left = _mm256_castsi256_ps(_mm256_cmpgt_epi32(lane, _mm256_set1_epi32(k + kLanes - K - 1)));
#pragma GCC unroll 8
    for (int r = 0; r < w_rows; ++r) {
      const __m256 b = _mm256_and_ps(widen(w + offset[r] + K - kLanes), left);
#pragma GCC unroll 4
      for (int m = 0; m < rows; ++m) {
        sums[m * w_rows + r] = _mm256_fmadd_ps(_mm256_load_ps(a_end + m * kLanes), b, sums[m * w_rows + r]);
      }
    }
  }
  alignas(32) float results[8];
  _mm256_store_ps(results, sums_of_lanes(sums));
#pragma GCC unroll 4
  for (int m = 0; m < rows; ++m) {
#pragma GCC unroll 8
    for (int r = 0; r < w_rows; ++r) {
      if (r < n) c[m * ldc + r] = results[m * w_rows + r];
    }
  }
}

// Some rows of a, M <= kMostRows, times some of w.
template <class T>
AVX2_INLINE void by_columns_block(float* c, int64_t ldc, const float* a, int64_t lda, int64_t M, int64_t K, const T* w,
                                  int64_t ldw, int64_t n) {
  const RowsOfA<float, kLanes> rows_of_a(a, lda, M, K, n, kLanes);
  a = rows_of_a.a;
  lda = rows_of_a.lda;
  const float* const a_end = rows_of_a.end;
  if (M == 1) {
    for (int64_t r = 0; r < n; r += 8) by_columns<1, 8>(c + r, ldc, a, lda, a_end, K, w + r * ldw, ldw, n - r);
  } else if (M == 2) {
    for (int64_t r = 0; r < n; r += 4) by_columns<2, 4>(c + r, ldc, a, lda, a_end, K, w + r * ldw, ldw, n - r);
  } else {
    for (int64_t r = 0; r < n; r += 2) {
      for_each_four(M, [=](int64_t m, auto rows) __attribute__((AVX2_TARGET, always_inline)) {
        by_columns<rows.value, 2>(c + m * ldc + r, ldc, a + m * lda, lda, a_end + m * kLanes, K, w + r * ldw, ldw,
                                  n - r);
      });
    }
  }
}

template <class T>
AVX2_KERNEL void all_by_columns(float* c, int64_t ldc, const float* a, int64_t lda, int64_t M, int64_t K, const T* w,
                                int64_t ldw, int64_t n) {
  const int64_t fours = std::max<int64_t>(1, kBytesOfA / (4 * K * int64_t(sizeof(float))));
  const int64_t a_rows = std::min(4 * fours, kMostRows);
  const int64_t w_rows = std::max<int64_t>(8, kBytesOfW / (K * int64_t(sizeof(float))) / 8 * 8);
  for (int64_t r = 0; r < n; r += w_rows) {
    for (int64_t m = 0; m < M; m += a_rows) {
      by_columns_block(c + m * ldc + r, ldc, a + m * lda, lda, std::min(M - m, a_rows), K, w + r * ldw, ldw,
                       std::min(n - r, w_rows));
    }
  }
}

}  // namespace rnndrop::cpu::avx2
#endif
