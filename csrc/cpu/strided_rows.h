// Where the elements of some rows are, at one column.
//
// A pointer to each of twelve rows is more than there are registers, and GCC keeps what is too much in vectors'
// registers: products of 7 to 11 rows then take up to 1.17 times as long (GCC 12, Zen 4). Of so many every fourth has a
// pointer, and the three after it are one, two and three strides away, as an instruction of x86 can address them.
#pragma once

#include <cstdint>

#include "cpu/vector_isa.h"

namespace rnndrop::cpu {

inline constexpr int kMostPointers = 4;  // more rows than these have not one each

template <class T, int rows, bool many = (rows > kMostPointers)>
class StridedRows {
 public:
  INLINE StridedRows(const T* first, int64_t stride) : first_(first), stride_(stride) {}
  INLINE const T* operator[](int m) const { return first_ + m * stride_; }

 private:
  const T* first_;
  int64_t stride_;
};

template <class T, int rows>
class StridedRows<T, rows, true> {
 public:
  INLINE StridedRows(const T* first, int64_t stride) : stride_(stride * sizeof(T)), three_(3 * stride_) {
#pragma GCC unroll 8
    for (int i = 0; i < kPointers; ++i) {
      pointers_[i] = reinterpret_cast<const char*>(first) + 4 * i * stride_;
      asm("" : "+r"(pointers_[i]));  // hides from the compiler what they have in common
    }
  }
  INLINE const T* operator[](int m) const {
    const char* first = pointers_[m / 4];
    return reinterpret_cast<const T*>(m % 4 == 3 ? first + three_ : first + m % 4 * stride_);
  }
  // These, and goes on to the next column.
  INLINE StridedRows take() {
    const StridedRows taken = *this;
#pragma GCC unroll 8
    for (int i = 0; i < kPointers; ++i) pointers_[i] += sizeof(T);
    asm("" : "+r"(stride_));  // hides that twice of it stays the same, which would take a register
    return taken;
  }

 private:
  static constexpr int kPointers = (rows + 3) / 4;
  const char* pointers_[kPointers];
  int64_t stride_, three_;  // in bytes
};

}  // namespace rnndrop::cpu
