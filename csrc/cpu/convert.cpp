// float16 is converted by the processor's instruction where it has one, bfloat16 by shifts that the compiler turns into
// vectors.
#include "cpu/convert.h"

#include "cpu/avx512.h"
#include "cpu/vector_isa.h"

namespace rnndrop::cpu {
namespace {

// A row of each type, for every ISA.
template <class Out, class In>
INLINE void convert_each(Out* out, const In* in, int64_t n) {
  for (int64_t k = 0; k < n; ++k) out[k] = static_cast<Out>(in[k]);
}

INLINE void row_baseline(float* out, const c10::BFloat16* in, int64_t n) { convert_each(out, in, n); }
INLINE void row_baseline(c10::BFloat16* out, const float* in, int64_t n) { convert_each(out, in, n); }
INLINE void row_baseline(float* out, const c10::Half* in, int64_t n) { convert_each(out, in, n); }
INLINE void row_baseline(c10::Half* out, const float* in, int64_t n) { convert_each(out, in, n); }

#ifdef RNNDROP_AVX512
#define AVX2_INLINE inline __attribute__((target("avx2,fma,f16c"), always_inline))
constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

AVX2_INLINE void widen_8(float* out, const c10::Half* in) {
  _mm256_storeu_ps(out, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in))));
}
AVX2_INLINE void round_8(c10::Half* out, const float* in) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm256_cvtps_ph(_mm256_loadu_ps(in), kNearest));
}
// Fewer than 8.
AVX2_INLINE void widen_end(float* out, const c10::Half* in, int64_t n) {
  if (n & 4) {
    _mm_storeu_ps(out, _mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(in))));
    out += 4;
    in += 4;
  }
  for (int64_t k = 0; k < (n & 3); ++k) out[k] = _cvtsh_ss(in[k].x);
}
AVX2_INLINE void round_end(c10::Half* out, const float* in, int64_t n) {
  if (n & 4) {
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out), _mm_cvtps_ph(_mm_loadu_ps(in), kNearest));
    out += 4;
    in += 4;
  }
  for (int64_t k = 0; k < (n & 3); ++k) out[k].x = _cvtss_sh(in[k], kNearest);
}

AVX2_INLINE void row_AVX2(float* out, const c10::Half* in, int64_t n) {
  int64_t k = 0;
  for (; k + 8 <= n; k += 8) widen_8(out + k, in + k);
  widen_end(out + k, in + k, n - k);
}
AVX2_INLINE void row_AVX2(c10::Half* out, const float* in, int64_t n) {
  int64_t k = 0;
  for (; k + 8 <= n; k += 8) round_8(out + k, in + k);
  round_end(out + k, in + k, n - k);
}
AVX2_INLINE void row_AVX2(float* out, const c10::BFloat16* in, int64_t n) { convert_each(out, in, n); }
AVX2_INLINE void row_AVX2(c10::BFloat16* out, const float* in, int64_t n) { convert_each(out, in, n); }

// Without masks: a masked store takes longer, and what is read next waits for it. A row's end comes in halves, each
// written and read as one.
AVX512_INLINE void row_AVX512(float* out, const c10::Half* in, int64_t n) {
  int64_t k = 0;
  for (; k + 16 <= n; k += 16) _mm512_storeu_ps(out + k, widen(in + k, __mmask16(-1)));
  if (n & 8) {
    widen_8(out + k, in + k);
    k += 8;
  }
  widen_end(out + k, in + k, n - k);
}
AVX512_INLINE void row_AVX512(c10::Half* out, const float* in, int64_t n) {
  int64_t k = 0;
  for (; k + 16 <= n; k += 16) {
    const __m256i rounded = _mm512_cvtps_ph(_mm512_loadu_ps(in + k), kNearest);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + k), rounded);
  }
  if (n & 8) {
    round_8(out + k, in + k);
    k += 8;
  }
  round_end(out + k, in + k, n - k);
}

AVX512_INLINE void row_AVX512(float* out, const c10::BFloat16* in, int64_t n) {
  for (int64_t k = 0; k < n; k += 16) {
    const __mmask16 lanes = first_lanes(n - k);
    _mm512_mask_storeu_ps(out + k, lanes, widen(in + k, lanes));
  }
}
AVX512_INLINE void row_AVX512(c10::BFloat16* out, const float* in, int64_t n) {
  for (int64_t k = 0; k < n; k += 16) {
    const __mmask16 lanes = first_lanes(n - k);
    const __m512 numbers = _mm512_maskz_loadu_ps(lanes, in + k);
    const __m512i bits = _mm512_castps_si512(numbers);
    // To the nearest, and where two are, to the even one.
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 nan = _mm512_cmp_ps_mask(numbers, numbers, _CMP_UNORD_Q);
    rounded = _mm512_mask_mov_epi32(_mm512_srli_epi32(rounded, 16), nan, _mm512_set1_epi32(0x7fc0));
    _mm256_mask_storeu_epi16(out + k, lanes, _mm512_cvtepi32_epi16(rounded));
  }
}
#endif

template <class Out, class In>
struct Kernels {
  void (*row)(Out*, const In*, int64_t);
  void (*rows)(Out*, int64_t, const In*, int64_t, int64_t, int64_t);
};

#define DEFINE_KERNELS(NAME, ATTRIBUTE)                                                                             \
  template <class Out, class In>                                                                                    \
  ATTRIBUTE void one_row_##NAME(Out* out, const In* in, int64_t n) {                                                \
    row_##NAME(out, in, n);                                                                                         \
  }                                                                                                                 \
  template <class Out, class In>                                                                                    \
  ATTRIBUTE void rows_##NAME(Out* out, int64_t out_stride, const In* in, int64_t in_stride, int64_t M, int64_t n) { \
    for (int64_t m = 0; m < M; ++m) row_##NAME(out + m * out_stride, in + m * in_stride, n);                        \
  }                                                                                                                 \
  template <class Out, class In>                                                                                    \
  constexpr Kernels<Out, In> kernels_##NAME{one_row_##NAME<Out, In>, rows_##NAME<Out, In>};
DEFINE_FOR_EVERY_ISA(DEFINE_KERNELS)

template <class Out, class In>
INLINE const Kernels<Out, In>& kernels() {
  static const Kernels<Out, In>& chosen = WIDEST_OF(kernels_, Out, In);
  return chosen;
}

}  // namespace

template <class Out, class In>
void convert(Out* out, const In* in, int64_t n) {
  kernels<Out, In>().row(out, in, n);
}
template <class Out, class In>
void convert(Out* out, int64_t out_stride, const In* in, int64_t in_stride, int64_t M, int64_t n) {
  kernels<Out, In>().rows(out, out_stride, in, in_stride, M, n);
}

#define INSTANTIATE(Out, In)                       \
  template void convert(Out*, const In*, int64_t); \
  template void convert(Out*, int64_t, const In*, int64_t, int64_t, int64_t);
INSTANTIATE(float, c10::BFloat16)
INSTANTIATE(float, c10::Half)
INSTANTIATE(c10::BFloat16, float)
INSTANTIATE(c10::Half, float)

}  // namespace rnndrop::cpu
