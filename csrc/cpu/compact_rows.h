// Rows of x, h or da as the products take them.
//
// In float32 a kernel reads the kept elements of a row where they lie. In bfloat16 it reads two neighbours along K at a
// time, on AMX 32 of them, so that they have to lie together, and be padded: rows are copied, unless they are so
// already. Long rows are copied in any type, to begin at cache lines. Their few elements that a product needs at a time
// are a line in each row, and rows longer than the first cache come from the second once for every panel: where they
// began within a line, a layer of 1150 to 1500 units took 1.2 to 1.5 times as long (Zen 5).
//
// Cost: one pass over the rows, where they are copied, for 4H or more of products with each element.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "cpu/bfloat16_gemm.h"
#include "cpu/buffer.h"
#include "cpu/compute_type.h"
#include "cpu/convert.h"
#include "cpu/kept_columns.h"
#include "cpu/packed_gemm.h"

namespace rnndrop::cpu {

// As for float32, but what is put back is a sum, and rounded or not.
template <>
class KeptColumns<c10::BFloat16> {
  using BFloat16 = c10::BFloat16;

 public:
  KeptColumns() = default;
  KeptColumns(int64_t columns, const std::vector<int32_t>& kept)
      : columns_(columns), n_kept_(kept.size()), bits_((columns + 31) / 32) {
    for (const int32_t k : kept) bits_[k / 32] |= uint32_t(1) << k % 32;
  }

  int64_t room() const { return n_kept_ + 32; }
  // Those past a row's last column get zeros, up to a whole vector.
  void gather(const BFloat16* rows, int64_t stride, int64_t M, const BFloat16* mask, BFloat16* out,
              int64_t out_stride) const {
    for (int64_t m = 0; m < M; ++m) copy_chosen(out + m * out_stride, rows + m * stride, mask, bits_.data(), columns_);
  }
  template <class Out>
  void scatter(const float* gathered, int64_t stride, int64_t M, const BFloat16* mask, Out* out,
               int64_t out_stride) const {
    for (int64_t m = 0; m < M; ++m) spread(out + m * out_stride, gathered + m * stride, mask, bits_.data(), columns_);
  }

 private:
  int64_t columns_ = 0, n_kept_ = 0;
  std::vector<uint32_t> bits_;  // of each column, whether it is kept
};

template <class T>
class CompactRows {
 public:
  CompactRows() = default;
  // kept: elements of rows of n, in order.
  CompactRows(int64_t n, const std::vector<int32_t>& kept) : n_(n) {
    const int64_t n_kept = kept.size();
    gathers_ = is_16_bits<T> && (n_kept < n || padded<T>(n) != n);
    if (gathers_) places_ = KeptColumns<T>(n, kept);
    stride_ = gathers_ ? padded<T>(n_kept) : n;
    is_long_ = stride_ * kRowsRead > kFirstCache / int64_t(sizeof(T));
    if (is_long_) stride_ = odd_lines<T>(stride_);
  }

  // Elements of a buffer for the copies of so many rows of S.
  template <class S>
  int64_t room(int64_t rows) const {
    if (gathers_) return rows * stride_ + places_.room();
    return is_long_ || !std::is_same_v<S, T> ? rows * stride_ : 0;
  }
  // M rows of `in`, or their copies in the buffer.
  template <class S>
  Rows<T> of(const Rows<S>& in, int64_t M, T* buffer) const {
    if constexpr (std::is_same_v<S, T>) {
      if (gathers_) {
        places_.gather(in.data, in.stride, M, nullptr, buffer, stride_);
        return {buffer, stride_, nullptr};
      }
      if (!is_long_) return in;
      for (int64_t m = 0; m < M; ++m) std::copy_n(in.data + m * in.stride, n_, buffer + m * stride_);
    } else {
      const bool is_one_run = in.stride == n_ && stride_ == n_;
      if (is_one_run) {
        convert(buffer, in.data, M * n_);
      } else {
        convert(buffer, stride_, in.data, in.stride, M, n_);
      }
    }
    return {buffer, stride_, in.columns};
  }

 private:
  static constexpr int64_t kRowsRead = 12;  // together, at most, but for AMX
  bool gathers_ = false, is_long_ = false;
  int64_t n_ = 0, stride_ = 0;
  KeptColumns<T> places_;
};

template <class T>
void multiply_elements(T* out, const T* a, const T* b, int64_t n) {
  for (int64_t k = 0; k < n; ++k) out[k] = a[k] * b[k];
}

// Scatters as KeptColumns does, sums to rows of another type too; buffer: a row.
template <class T, class Out>
void scatter_sums(const KeptColumns<T>& places, const acc_type<T>* gathered, int64_t stride, int64_t M, const T* mask,
                  Out* out, int64_t columns, acc_type<T>* buffer) {
  if constexpr (is_16_bits<T> || std::is_same_v<Out, T>) {
    places.scatter(gathered, stride, M, mask, out, columns);
  } else {
    for (int64_t m = 0; m < M; ++m) {
      places.scatter(gathered + m * stride, 0, 1, mask, buffer, 0);
      convert(out + m * columns, buffer, columns);
    }
  }
}

}  // namespace rnndrop::cpu
