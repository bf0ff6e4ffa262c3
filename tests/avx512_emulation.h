// AVX-512 on a processor without, for tests: included before every source of the engine by system/test_avx512.py.
//
// SIMDe has most intrinsics; those that it lacks are loops here. Kernels are compiled for AVX2, whatever they say that
// they are for, so that the compiler makes two vectors of each of 64 bytes.
#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>
#include <immintrin.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <optional>
#include <string>

#include "amx_emulation.h"
#define VECTORS_ARE_EMULATED
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#define __m512 simde__m512
#define __m512i simde__m512i
#define __m512d simde__m512d
#define __m512bh simde__m512bh
#define __mmask16 simde__mmask16
#define __mmask32 simde__mmask32

namespace avx512_emulation {

inline bool supports(const char* feature) {
  return std::strncmp(feature, "avx512", 6) == 0 ? std::getenv("EMULATES_AVX512_BF16") != nullptr
                                                 : __builtin_cpu_supports("avx2") != 0;
}

// A vector as n numbers.
template <class T, int n>
struct Lanes {
  T lane[n] = {};
  Lanes() = default;
  template <class V>
  explicit Lanes(const V& vector) {
    static_assert(sizeof vector == sizeof lane);
    std::memcpy(lane, &vector, sizeof lane);
  }
  template <class V>
  V as() const {
    V vector;
    static_assert(sizeof vector == sizeof lane);
    std::memcpy(&vector, lane, sizeof lane);
    return vector;
  }
};

// What a mask hides is neither read nor written.
template <class V, class T, int n>
V load(uint32_t mask, const void* from) {
  Lanes<T, n> lanes;
  for (int k = 0; k < n; ++k) {
    if (mask >> k & 1) std::memcpy(&lanes.lane[k], static_cast<const T*>(from) + k, sizeof(T));
  }
  return lanes.template as<V>();
}
template <class T, int n, class V>
void store(void* to, uint32_t mask, const V& vector) {
  const Lanes<T, n> lanes(vector);
  for (int k = 0; k < n; ++k) {
    if (mask >> k & 1) std::memcpy(static_cast<T*>(to) + k, &lanes.lane[k], sizeof(T));
  }
}

template <class V, class To, class From, int n, class In, class Each>
V each(const In& vector, const Each& convert) {
  const Lanes<From, n> in(vector);
  Lanes<To, n> out;
  for (int k = 0; k < n; ++k) out.lane[k] = convert(in.lane[k]);
  return out.template as<V>();
}

// As the instruction: subnormal numbers are zeros.
inline uint16_t to_bfloat16(float number) {
  uint32_t bits;
  std::memcpy(&bits, &number, sizeof bits);
  if ((bits & 0x7fffffff) > 0x7f800000) return bits >> 16 | 0x40;
  if ((bits & 0x7f800000) == 0) bits &= 0x80000000;
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

inline __m256i narrow(const __m512i& a) {
  return each<__m256i, uint16_t, uint32_t, 16>(a, [](uint32_t bits) { return bits; });
}
inline __m512i widen(const __m256i& a) {
  return each<__m512i, uint32_t, uint16_t, 16>(a, [](uint16_t bits) { return bits; });
}
inline __m512 from_float16(const __m256i& a) {
  return each<__m512, float, uint16_t, 16>(a, [](uint16_t bits) { return _cvtsh_ss(bits); });
}
inline __m256i to_float16(const __m512& a) {
  return each<__m256i, uint16_t, float, 16>(a, [](float number) { return _cvtss_sh(number, 0); });
}
inline __m256i to_bfloat16(const __m512& a) {
  return each<__m256i, uint16_t, float, 16>(a, [](float number) { return to_bfloat16(number); });
}
inline __m512i to_bfloat16(const __m512& high, const __m512& low) {
  const Lanes<float, 16> of_high(high), of_low(low);
  Lanes<uint16_t, 32> out;
  for (int k = 0; k < 16; ++k) {
    out.lane[k] = to_bfloat16(of_low.lane[k]);
    out.lane[16 + k] = to_bfloat16(of_high.lane[k]);
  }
  return out.as<__m512i>();
}

inline __m512i compress(uint32_t mask, const __m512i& a) {
  const Lanes<uint16_t, 32> in(a);
  Lanes<uint16_t, 32> out;
  for (int k = 0, n = 0; k < 32; ++k) {
    if (mask >> k & 1) out.lane[n++] = in.lane[k];
  }
  return out.as<__m512i>();
}
inline __m512 expand(uint16_t mask, const __m512& a) {
  const Lanes<float, 16> in(a);
  Lanes<float, 16> out;
  for (int k = 0, n = 0; k < 16; ++k) {
    if (mask >> k & 1) out.lane[k] = in.lane[n++];
  }
  return out.as<__m512>();
}
inline __m512 shuffle_quarters(const __m512& a, const __m512& b, int chosen) {
  const Lanes<float, 16> of_a(a), of_b(b);
  Lanes<float, 16> out;
  for (int k = 0; k < 16; ++k) {
    const int quarter = k / 4;
    out.lane[k] = (quarter < 2 ? of_a : of_b).lane[4 * (chosen >> 2 * quarter & 3) + k % 4];
  }
  return out.as<__m512>();
}

inline void scatter(void* to, const __m512i& places, const __m512i& a, int bytes) {
  const Lanes<int32_t, 16> of_places(places), of_a(a);
  for (int k = 0; k < 16; ++k) {
    std::memcpy(static_cast<char*>(to) + int64_t(of_places.lane[k]) * bytes, &of_a.lane[k], sizeof(int32_t));
  }
}

}  // namespace avx512_emulation

#define _mm256_maskz_loadu_epi16(mask, from) avx512_emulation::load<__m256i, uint16_t, 16>(mask, from)
#define _mm512_maskz_loadu_epi16(mask, from) avx512_emulation::load<__m512i, uint16_t, 32>(mask, from)
#define _mm512_maskz_loadu_ps(mask, from) avx512_emulation::load<__m512, float, 16>(mask, from)
#define _mm256_mask_storeu_epi16(to, mask, a) avx512_emulation::store<uint16_t, 16>(to, mask, a)
#define _mm512_mask_storeu_epi32(to, mask, a) avx512_emulation::store<uint32_t, 16>(to, mask, a)
#define _mm512_mask_storeu_ps(to, mask, a) avx512_emulation::store<float, 16>(to, mask, a)
#define _mm512_cvtepi32_epi16 avx512_emulation::narrow
#define _mm512_cvtepu16_epi32 avx512_emulation::widen
#define _mm512_cvtph_ps avx512_emulation::from_float16
#define _mm512_cvtps_ph(a, rounding) avx512_emulation::to_float16(a)
#define _mm512_cvtneps_pbh avx512_emulation::to_bfloat16
#define _mm512_cvtne2ps_pbh avx512_emulation::to_bfloat16
#define _mm512_maskz_compress_epi16 avx512_emulation::compress
#define _mm512_maskz_expand_ps avx512_emulation::expand
#define _mm512_shuffle_f32x4 avx512_emulation::shuffle_quarters
#define _mm512_i32scatter_epi32 avx512_emulation::scatter

// Of the engine's own attributes and questions, behind all that has others.
#define target(...)
#define __builtin_cpu_supports(feature) avx512_emulation::supports(feature)
