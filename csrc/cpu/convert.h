// Rows of a 16-bit type to float32 and back, in the widest vectors this CPU has.
#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <cstdint>

namespace rnndrop::cpu {

// n elements; 16 bits are rounded to the nearest.
template <class Out, class In>
void convert(Out* out, const In* in, int64_t n);
template <class T>
void convert(T* out, const T* in, int64_t n) {
  std::copy_n(in, n, out);
}

// M rows of them, each its stride from the next: a call for each would take longer than a few elements.
template <class Out, class In>
void convert(Out* out, int64_t out_stride, const In* in, int64_t in_stride, int64_t M, int64_t n);
template <class T>
void convert(T* out, int64_t out_stride, const T* in, int64_t in_stride, int64_t M, int64_t n) {
  for (int64_t m = 0; m < M; ++m) std::copy_n(in + m * in_stride, n, out + m * out_stride);
}

}  // namespace rnndrop::cpu
