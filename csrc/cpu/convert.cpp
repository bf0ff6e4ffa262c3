// float16 is converted by the processor's instruction where it has one, bfloat16 by shifts that the compiler turns into
// vectors.
#include "cpu/convert.h"

#include "cpu/avx512.h"
#include "cpu/vector_isa.h"

namespace rnndrop::cpu {
namespace {

template <class Out, class In>
INLINE void convert_each(Out* out, const In* in, int64_t n) {
  for (int64_t k = 0; k < n; ++k) out[k] = static_cast<Out>(in[k]);
}

struct Kernels {
  void (*from_bfloat16)(float*, const c10::BFloat16*, int64_t);
  void (*to_bfloat16)(c10::BFloat16*, const float*, int64_t);
  void (*from_float16)(float*, const c10::Half*, int64_t);
  void (*to_float16)(c10::Half*, const float*, int64_t);
};

void from_float16_baseline(float* out, const c10::Half* in, int64_t n) { convert_each(out, in, n); }
void to_float16_baseline(c10::Half* out, const float* in, int64_t n) { convert_each(out, in, n); }

#ifdef RNNDROP_AVX512
constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

__attribute__((target("avx2,f16c"))) void from_float16_AVX2(float* out, const c10::Half* in, int64_t n) {
  int64_t k = 0;
  for (; k + 8 <= n; k += 8) {
    _mm256_storeu_ps(out + k, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in + k))));
  }
  if (n & 4) {
    _mm_storeu_ps(out + k, _mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(in + k))));
    k += 4;
  }
  for (; k < n; ++k) out[k] = _cvtsh_ss(in[k].x);
}
__attribute__((target("avx2,f16c"))) void to_float16_AVX2(c10::Half* out, const float* in, int64_t n) {
  int64_t k = 0;
  for (; k + 8 <= n; k += 8) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + k), _mm256_cvtps_ph(_mm256_loadu_ps(in + k), kNearest));
  }
  if (n & 4) {
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out + k), _mm_cvtps_ph(_mm_loadu_ps(in + k), kNearest));
    k += 4;
  }
  for (; k < n; ++k) out[k].x = _cvtss_sh(in[k], kNearest);
}

// Without masks: a masked store takes longer, and what is read next waits for it. A row's end comes in halves, each
// written and read as one.
AVX512_KERNEL void from_float16_AVX512(float* out, const c10::Half* in, int64_t n) {
  int64_t k = 0;
  for (; k + 16 <= n; k += 16) _mm512_storeu_ps(out + k, widen(in + k, __mmask16(-1)));
  if (n & 8) {
    _mm256_storeu_ps(out + k, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in + k))));
    k += 8;
  }
  if (n & 4) {
    _mm_storeu_ps(out + k, _mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(in + k))));
    k += 4;
  }
  for (; k < n; ++k) out[k] = _cvtsh_ss(in[k].x);
}
AVX512_KERNEL void to_float16_AVX512(c10::Half* out, const float* in, int64_t n) {
  int64_t k = 0;
  for (; k + 16 <= n; k += 16) {
    const __m256i rounded = _mm512_cvtps_ph(_mm512_loadu_ps(in + k), kNearest);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + k), rounded);
  }
  if (n & 8) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + k), _mm256_cvtps_ph(_mm256_loadu_ps(in + k), kNearest));
    k += 8;
  }
  if (n & 4) {
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out + k), _mm_cvtps_ph(_mm_loadu_ps(in + k), kNearest));
    k += 4;
  }
  for (; k < n; ++k) out[k].x = _cvtss_sh(in[k], kNearest);
}

AVX512_KERNEL void from_bfloat16_AVX512(float* out, const c10::BFloat16* in, int64_t n) {
  for (int64_t k = 0; k < n; k += 16) {
    const __mmask16 lanes = first_lanes(n - k);
    _mm512_mask_storeu_ps(out + k, lanes, widen(in + k, lanes));
  }
}
AVX512_KERNEL void to_bfloat16_AVX512(c10::BFloat16* out, const float* in, int64_t n) {
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

void from_bfloat16_baseline(float* out, const c10::BFloat16* in, int64_t n) { convert_each(out, in, n); }
void to_bfloat16_baseline(c10::BFloat16* out, const float* in, int64_t n) { convert_each(out, in, n); }
#ifdef RNNDROP_AVX512
__attribute__((target("avx2"))) void from_bfloat16_AVX2(float* out, const c10::BFloat16* in, int64_t n) {
  convert_each(out, in, n);
}
__attribute__((target("avx2"))) void to_bfloat16_AVX2(c10::BFloat16* out, const float* in, int64_t n) {
  convert_each(out, in, n);
}
#endif

#define DEFINE_KERNELS(NAME, ATTRIBUTE) \
  constexpr Kernels kernels_##NAME{from_bfloat16_##NAME, to_bfloat16_##NAME, from_float16_##NAME, to_float16_##NAME};
DEFINE_FOR_EVERY_ISA(DEFINE_KERNELS)

const Kernels& kernels() {
  static const Kernels& chosen = WIDEST(kernels_);
  return chosen;
}

}  // namespace

void convert(float* out, const c10::BFloat16* in, int64_t n) { kernels().from_bfloat16(out, in, n); }
void convert(float* out, const c10::Half* in, int64_t n) { kernels().from_float16(out, in, n); }
void convert(c10::BFloat16* out, const float* in, int64_t n) { kernels().to_bfloat16(out, in, n); }
void convert(c10::Half* out, const float* in, int64_t n) { kernels().to_float16(out, in, n); }

}  // namespace rnndrop::cpu
