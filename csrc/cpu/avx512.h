// What the files of intrinsics share: inlined into kernels that are compiled for AVX-512 whatever the rest is.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__)
#define RNNDROP_AVX512 1

#ifndef __clang__
// Of GCC's own header, which leaves what a mask hides uninitialised on purpose.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>
#include <immintrin.h>

#include <cstdint>

#include "cpu/vector_isa.h"

#define AVX512_KERNEL __attribute__((AVX512_TARGET))
#define AVX512_INLINE inline __attribute__((AVX512_TARGET, always_inline))

namespace rnndrop::cpu {

// The first n of up to 32 lanes.
AVX512_INLINE __mmask32 first_lanes(int64_t n) { return n >= 32 ? ~__mmask32(0) : (__mmask32(1) << n) - 1; }

AVX512_INLINE __m512 widen_bfloat16(__m256i a) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(a), 16));
}
AVX512_INLINE __m512 widen(const c10::BFloat16* in, __mmask16 lanes) {
  return widen_bfloat16(_mm256_maskz_loadu_epi16(lanes, in));
}
AVX512_INLINE __m512 widen(const c10::Half* in, __mmask16 lanes) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes, in));
}

// The quarters of a in turn added to the next ones, and of b.
AVX512_INLINE __m512 add_quarters(__m512 a, __m512 b) {
  return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}

// Lane l of the result is the sum of the lanes of v[l].
AVX512_INLINE __m512 sums_of_lanes(const __m512 (&v)[16]) {
  __m512 fours[4];  // of four vectors each, with their sums within each quarter
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512 a = v[4 * i], b = v[4 * i + 1], c = v[4 * i + 2], d = v[4 * i + 3];
    const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    const __m512d low = _mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    const __m512d high = _mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    fours[i] = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
  }
  // The quarters of each are added up, and come to its own quarter.
  return add_quarters(add_quarters(fours[0], fours[1]), add_quarters(fours[2], fours[3]));
}

}  // namespace rnndrop::cpu
#endif
