// Columns of bfloat16 as pairs along K, which AVX512_BF16 and AMX both multiply: what packing a transposed operand
// loads.
#pragma once

#include "cpu/avx512.h"
#include "cpu/packed_gemm.h"

#ifdef RNNDROP_AVX512
namespace rnndrop::cpu {

// Lanes of a and b as pairs: (a0, b0), (a1, b1), ...
AVX512_INLINE __m512i pairs_of_lanes(__m256i a, __m256i b) {
  return _mm512_or_si512(_mm512_cvtepu16_epi32(a), _mm512_slli_epi32(_mm512_cvtepu16_epi32(b), 16));
}

// The first M <= 16 of the columns of in[K, ...], and their sums.
struct ColumnPairs {
  const Rows<c10::BFloat16>& in;
  int64_t M, K;
  bool adjacent;
  __m512 sums;
};

AVX512_INLINE ColumnPairs column_pairs(const Rows<c10::BFloat16>& in, int64_t M, int64_t K) {
  return {in, M, K, in.columns[M - 1] - in.columns[0] == M - 1, _mm512_setzero_ps()};
}

AVX512_INLINE __m256i load_row(const ColumnPairs& of, int64_t k) {
  const c10::BFloat16* row = of.in.data + k * of.in.stride;
  if (of.adjacent) return _mm256_maskz_loadu_epi16(first_lanes(of.M), row + of.in.columns[0]);
  alignas(32) c10::BFloat16 lanes[16] = {};
  for (int64_t m = 0; m < of.M; ++m) lanes[m] = row[of.in.columns[m]];
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(lanes));
}

// Rows k and k + 1, 0 past the last, as pairs; adds them to the sums.
AVX512_INLINE __m512i load_columns(ColumnPairs& of, int64_t k) {
  const __m256i even = load_row(of, k), odd = k + 1 < of.K ? load_row(of, k + 1) : _mm256_setzero_si256();
  of.sums = _mm512_add_ps(of.sums, _mm512_add_ps(widen_bfloat16(even), widen_bfloat16(odd)));
  return pairs_of_lanes(even, odd);
}

// Adds each column's sum to sums[the column].
AVX512_INLINE void add_sums(const ColumnPairs& of, float* sums) {
  float lanes[16];
  _mm512_storeu_ps(lanes, of.sums);
  for (int64_t m = 0; m < of.M; ++m) sums[of.in.columns[m]] += lanes[m];
}

}  // namespace rnndrop::cpu
#endif
