// Rows of which some elements are chosen, as a product takes them.
//
// In float32 a kernel reads the chosen elements where they lie. bfloat16's takes neighbours two at a time, so that
// those of a row have to lie together, and be even in number: here they are copied there, unless they do already.
//
// Cost: one pass over the rows, where they are copied; none in float32.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "cpu/bfloat16_gemm.h"
#include "cpu/buffer.h"
#include "cpu/compute_type.h"

namespace rnndrop::cpu {

template <class T>
void multiply_elements(T* out, const T* a, const T* b, int64_t n) {
  for (int64_t k = 0; k < n; ++k) out[k] = a[k] * b[k];
}

template <class T>
class CompactRows {
 public:
  // chosen: elements of rows of n.
  CompactRows(const std::vector<int32_t>& chosen, int64_t n)
      : n_(n), chosen_(chosen.size()), copies_(is_16_bits<T> && (chosen_ < n || n % kTogether<T> != 0)) {
    if (!is_16_bits<T>) return;
    bits_.resize((n + 31) / 32);
    for (const int32_t k : chosen) bits_[k / 32] |= uint32_t(1) << k % 32;
  }

  // Elements of a buffer for the copies of so many rows.
  int64_t room_for(int64_t rows) const { return copies_ ? rows * stride() + 32 : 0; }

  // M rows of `in`, or their copies in the buffer.
  Rows<T> of(const Rows<T>& in, int64_t M, T* buffer) const {
    if constexpr (is_16_bits<T>) {
      if (copies_) {
        for (int64_t m = 0; m < M; ++m) {
          copy_chosen(buffer + m * stride(), in.data + m * in.stride, nullptr, bits_.data(), n_);
        }
        return {buffer, stride(), nullptr};
      }
    }
    return in;
  }

  // Which are chosen; of 16-bit rows only.
  const uint32_t* bits() const { return bits_.data(); }

 private:
  int64_t stride() const { return round_up(chosen_, kTogether<T>); }

  int64_t n_, chosen_;
  bool copies_;
  std::vector<uint32_t> bits_;  // which are chosen
};

}  // namespace rnndrop::cpu
