// sigmoid and tanh for the cell, on host and device.
//
// On the device they are made of CUDA's own functions, and in float32 of the reciprocal within an ulp. On the host
// libm's would cost one call an element; these are straight-line arithmetic with selects in place of branches, so that
// the compiler turns a loop over them into AVX2 or AVX-512 code. Accurate to a few ulp, exact at 0 and at the limits,
// no overflow for any input, NaN stays NaN.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "host_device.h"

namespace rnndrop {

template <class acc_t>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  using Bits = uint32_t;
  static constexpr int mantissa_bits = 23, exponent_bias = 127;
  static constexpr float lowest = -87.f;  // e^x and 2^n stay normal numbers down to here
  static constexpr float highest = 89.f;  // 2^n is infinite here
  static constexpr float log2_e = 1.44269504f;
  static constexpr float ln2_high = 0.693359375f;  // few bits, so that n * ln2_high is exact
  static constexpr float ln2_low = -2.12194440e-4f;
  static constexpr float to_whole = 12582912.f;  // 1.5 * 2^23: adding it rounds to a whole number
};

template <>
struct ExpConstants<double> {
  using Bits = uint64_t;
  static constexpr int mantissa_bits = 52, exponent_bias = 1023;
  static constexpr double lowest = -708.;
  static constexpr double highest = 710.;
  static constexpr double log2_e = 1.4426950408889634074;
  static constexpr double ln2_high = 6.93147180369123816490e-01;
  static constexpr double ln2_low = 1.90821492927058770002e-10;
  static constexpr double to_whole = 6755399441055744.;  // 1.5 * 2^52
};

// (e^r - 1 - r) / r^2 for |r| <= ln(2)/2. In float32 the polynomial that errs least there, by 3e-9 of e^r; in float64
// the Taylor series, cut where the next term is below half an ulp.
HOST_DEVICE float expm1_series(float r) {
  float q = 0.0013813142f;
  q = q * r + 0.008369419f;
  q = q * r + 0.041668456f;
  q = q * r + 0.16666515f;
  return q * r + 0.49999994f;
}

HOST_DEVICE double expm1_series(double r) {
  double q = 1. / 87178291200;
  q = q * r + 1. / 6227020800;
  q = q * r + 1. / 479001600;
  q = q * r + 1. / 39916800;
  q = q * r + 1. / 3628800;
  q = q * r + 1. / 362880;
  q = q * r + 1. / 40320;
  q = q * r + 1. / 5040;
  q = q * r + 1. / 720;
  q = q * r + 1. / 120;
  q = q * r + 1. / 24;
  q = q * r + 1. / 6;
  return q * r + 1. / 2;
}

// For x <= highest: e^x = two_n * (1 + expm1_r), with two_n = 2^n and expm1_r = e^r - 1, x = n ln(2) + r.
template <class acc_t>
struct ExpParts {
  acc_t two_n, expm1_r;
};

template <class acc_t>
HOST_DEVICE ExpParts<acc_t> exp_parts(acc_t x) {
  using K = ExpConstants<acc_t>;
  using Bits = typename K::Bits;
  const acc_t clamped = x < K::lowest ? K::lowest : x;
  const acc_t shifted = clamped * K::log2_e + K::to_whole;  // n sits in its lowest bits
  const acc_t n = shifted - K::to_whole;
  const acc_t r = (clamped - n * K::ln2_high) - n * K::ln2_low;
  Bits bits;
  memcpy(&bits, &shifted, sizeof bits);
  bits = (bits + K::exponent_bias) << K::mantissa_bits;  // the bits above n are shifted out
  acc_t two_n;
  memcpy(&two_n, &bits, sizeof two_n);
  return {two_n, r + r * r * expm1_series(r)};
}

#ifdef __CUDA_ARCH__
// 1/x; in float32 within an ulp, and 0 where it is not a normal number. A division rounds better, but it branches, and
// gates do not go side by side through branches.
inline __device__ float reciprocal(float x) {
  float inverse;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(x));
  return inverse;
}
inline __device__ double reciprocal(double x) { return 1 / x; }
#endif

// sigmoid(x) = 1 / (1 + e^-x), where e^-x becomes infinite 0
template <class acc_t>
HOST_DEVICE acc_t sigmoid(acc_t x) {
#ifdef __CUDA_ARCH__
  return reciprocal(acc_t(1) + ::exp(-x));
#else
  const acc_t highest = ExpConstants<acc_t>::highest;
  const ExpParts<acc_t> parts = exp_parts(-x > highest ? highest : -x);
  // Not two_n + two_n * expm1_r: where two_n is infinite that has no value.
  return acc_t(1) / (acc_t(1) + parts.two_n * (acc_t(1) + parts.expm1_r));
#endif
}

// tanh(x) = sign(x) * -m / (m + 2) with m = e^(-2|x|) - 1, which keeps its relative accuracy near 0
template <class acc_t>
HOST_DEVICE acc_t tanh(acc_t x) {
#ifdef __CUDA_ARCH__
  return ::tanh(x);
#else
  const ExpParts<acc_t> parts = exp_parts(acc_t(-2) * std::fabs(x));
  const acc_t m = parts.two_n * parts.expm1_r + (parts.two_n - acc_t(1));
  return std::copysign(-m / (m + acc_t(2)), x);
#endif
}

}  // namespace rnndrop
