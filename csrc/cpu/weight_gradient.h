// The gradient of one weight: da^T in, summed over the rows of all steps.
//
// Cost: 2 flops for each row, gate row and kept column; beside them one copy of the inputs; and where a mask
// drops or scales columns, one pass over the weight at the end, for these to come back.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/layer_weights.h"

namespace rnndrop::cpu {

// Columns of an input of the GEMMs, its rows taken from many steps, packed for the weight's gradient; and that
// gradient.
template <class T>
struct WeightGradient {
  using Acc = acc_type<T>;

  WeightGradient(const Weight<T>& weight, void* dW, bool wanted, int64_t max_rows)
      : weight(weight), dW(static_cast<T*>(dW)), in_place(!is_16_bits<T> && weight.is_whole_of_each_group()) {
    for (const Group<T>& group : weight.groups) {
      if (!wanted) break;
      const int64_t padded = weight.column_blocks(group) * weight.width;
      panels.emplace_back(padded * round_up(max_rows, kTogether<T>));
      if (!in_place) sums.emplace_back(group.M() * padded);
    }
  }

  // row_of(r) is the input of row r, sample_of(r) its place in the batch.
  template <class RowOf, class SampleOf>
  void pack(const Team& team, int64_t B, int64_t rows, const RowOf& row_of, const SampleOf& sample_of) const {
    for (int64_t g = 0; g < int64_t(weight.groups.size()); ++g) {
      const Group<T>& group = weight.groups[g];
      const Range mine = team.share(rows, kTogether<T>);
      const int64_t blocks = weight.column_blocks(group), width = weight.width;
      if constexpr (is_16_bits<T>) {
        pack_pairs(g, mine, B, rows, row_of, sample_of);
        continue;
      }
      for (int64_t r = mine.begin; r < mine.end; ++r) {
        const T *in = row_of(r), *mask = weight.mask_of_sample(g, B, sample_of(r));
        for (int64_t block = 0; block < blocks; ++block) {
          T* out = panels[g].data() + (block * rows + r) * width;
          const int64_t first = block * width, n = std::min(width, group.K() - first);
          if (mask) {
            for (int64_t k = 0; k < n; ++k) out[k] = mask[first + k] * in[first + k];
          } else if (group.all) {
            std::copy_n(in + first, n, out);
          } else {
            for (int64_t k = 0; k < n; ++k) out[k] = in[group.kept[first + k]];
          }
          std::fill_n(out + n, width - n, T(0));
        }
      }
    }
  }

  // The same two rows at a time.
  template <class RowOf, class SampleOf>
  void pack_pairs(int64_t g, const Range& mine, int64_t B, int64_t rows, const RowOf& row_of,
                  const SampleOf& sample_of) const {
    const Group<T>& group = weight.groups[g];
    const int64_t blocks = weight.column_blocks(group), width = weight.width;
    const Buffer<T> masked(2 * weight.columns), copies(2 * group.inputs.room_for(1));
    const auto input_of = [&](int64_t r, int64_t place) {
      const T *in = row_of(r), *mask = weight.mask_of_sample(g, B, sample_of(r));
      if (mask) {
        multiply_elements(masked.data() + place * weight.columns, mask, in, weight.columns);
        in = masked.data() + place * weight.columns;
      }
      return group.inputs.of(Rows<T>{in, 0, nullptr}, 1, copies.data() + place * group.inputs.room_for(1)).data;
    };
    for (int64_t r = mine.begin; r < mine.end; r += 2) {
      const T *even = input_of(r, 0), *odd = r + 1 < rows ? input_of(r + 1, 1) : nullptr;
      for (int64_t block = 0; block < blocks; ++block) {
        const int64_t first = block * width;
        pack_pair(panels[g].data() + (block * round_up(rows, 2) + r) * width, even + first, odd ? odd + first : nullptr,
                  std::min(width, group.K() - first));
      }
    }
  }

  // sums of kept gate rows [m, m + M), M <= rows_at_once(), of group g and a block of columns (+)= da^T in; da_block
  // is packed [rows, rows_at_once].
  void add(int64_t g, int64_t m, int64_t M, int64_t block, const T* da_block, int64_t rows, bool first) const {
    const Group<T>& group = weight.groups[g];
    const int64_t width = weight.width, n = std::min(width, group.K() - block * width);
    const T* panel = panels[g].data() + block * round_up(rows, kTogether<T>) * width;
    const int64_t stride = in_place ? weight.columns : weight.column_blocks(group) * width;
    Acc* out = sums_of(g) + m * stride + block * width;
    if (!in_place || n == width) {
      if (first) fill(out, stride, M, width);
      return add_transposed_product(out, stride, da_block, M, rows, panel);
    }
    Acc tile[kMostRowsAtOnce * kWidestPanel];
    fill(tile, width, M, width);
    add_transposed_product(tile, width, da_block, M, rows, panel);
    if (first) fill(out, stride, M, n);
    for (int64_t r = 0; r < M; ++r) {
      for (int64_t k = 0; k < n; ++k) out[r * stride + k] += tile[r * width + k];
    }
  }

  // Row `row` of dW [4H, columns]. m: its index among group g's kept rows, -1 if dropped; the other entries become 0.
  void store_row(int64_t g, int64_t m, int64_t row) const {
    if (in_place) return;
    const Group<T>& group = weight.groups[g];
    const int64_t stride = weight.column_blocks(group) * weight.width;
    T* out = dW + row * weight.columns;
    if constexpr (is_16_bits<T>) return store_rounded(out, group, m < 0 ? nullptr : sums[g].data() + m * stride);
    if (m < 0 || !group.all) std::fill_n(out, weight.columns, T(0));
    if (m < 0) return;
    const Acc* sum = sums[g].data() + m * stride;
    for (int64_t k = 0; k < group.K(); ++k) out[group.kept[k]] = sum[k] * group.scale_of(k);
  }

  void store_rounded(T* out, const Group<T>& group, const Acc* sum) const {
    if (!sum) {
      std::fill_n(out, weight.columns, T(0));
    } else if (group.mask) {
      spread(out, sum, group.scale.data(), group.inputs.bits(), weight.columns);
    } else {
      round_elements(out, sum, weight.columns);
    }
  }

  Acc* sums_of(int64_t g) const {
    if constexpr (std::is_same_v<T, Acc>) {
      if (in_place) return dW + weight.groups[g].first_gate * weight.H * weight.columns;
    }
    return sums[g].data();
  }

  static void fill(Acc* out, int64_t stride, int64_t M, int64_t n) {
    for (int64_t r = 0; r < M; ++r) std::fill_n(out + r * stride, n, Acc(0));
  }

  const Weight<T>& weight;
  T* dW;
  // Where nothing is dropped, scaled or rounded the sums are dW itself.
  bool in_place;
  std::vector<Buffer<T>> panels;  // of each group: [blocks][rows, width]
  std::vector<Buffer<Acc>> sums;  // likewise: [M, blocks * width]
};

}  // namespace rnndrop::cpu
