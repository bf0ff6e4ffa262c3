// Rows of a 16-bit type to float32 and back, in the widest vectors this CPU has.
#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <cstdint>

namespace rnndrop::cpu {

void convert(float* out, const c10::BFloat16* in, int64_t n);
void convert(float* out, const c10::Half* in, int64_t n);
void convert(c10::BFloat16* out, const float* in, int64_t n);  // rounded, as the next is
void convert(c10::Half* out, const float* in, int64_t n);
template <class T>
void convert(T* out, const T* in, int64_t n) {
  std::copy_n(in, n, out);
}

}  // namespace rnndrop::cpu
