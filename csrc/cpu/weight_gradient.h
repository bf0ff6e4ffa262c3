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
  WeightGradient(const Weight<T>& weight, void* dW, bool wanted, int64_t max_rows)
      : weight(weight), dW(static_cast<T*>(dW)), in_place(weight.is_whole_of_each_group()) {
    for (const Group<T>& group : weight.groups) {
      if (!wanted) break;
      const int64_t padded = weight.column_blocks(group) * weight.width;
      panels.emplace_back(padded * max_rows);
      if (!in_place) sums.emplace_back(group.M() * padded);
    }
  }

  // row_of(r) is the input of row r, sample_of(r) its place in the batch.
  template <class RowOf, class SampleOf>
  void pack(const Team& team, int64_t B, int64_t rows, const RowOf& row_of, const SampleOf& sample_of) const {
    for (int64_t g = 0; g < int64_t(weight.groups.size()); ++g) {
      const Group<T>& group = weight.groups[g];
      const Range mine = team.share(rows);
      const int64_t blocks = weight.column_blocks(group), width = weight.width;
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

  // sums of kept gate rows [m, m + M), M <= rows_at_once(), of group g and a block of columns (+)= da^T in; da_block
  // is packed [rows, rows_at_once].
  void add(int64_t g, int64_t m, int64_t M, int64_t block, const T* da_block, int64_t rows, bool first) const {
    const Group<T>& group = weight.groups[g];
    const int64_t width = weight.width, n = std::min(width, group.K() - block * width);
    const T* panel = panels[g].data() + block * rows * width;
    const int64_t stride = in_place ? weight.columns : weight.column_blocks(group) * width;
    T* out = (in_place ? dW + group.first_gate * weight.H * stride : sums[g].data()) + m * stride + block * width;
    if (!in_place || n == width) {
      if (first) fill(out, stride, M, width);
      return add_transposed_product(out, stride, da_block, M, rows, panel);
    }
    T tile[kMostRowsAtOnce * kWidestPanel];
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
    if (m < 0 || !group.all) std::fill_n(out, weight.columns, T(0));
    if (m < 0) return;
    const T* sum = sums[g].data() + m * stride;
    for (int64_t k = 0; k < group.K(); ++k) out[group.kept[k]] = sum[k] * group.scale_of(k);
  }

  static void fill(T* out, int64_t stride, int64_t M, int64_t n) {
    for (int64_t r = 0; r < M; ++r) std::fill_n(out + r * stride, n, T(0));
  }

  const Weight<T>& weight;
  T* dW;
  // Where nothing is dropped or scaled the sums are dW itself.
  bool in_place;
  std::vector<Buffer<T>> panels, sums;  // of each group: [blocks][rows, width], [M, blocks * width]
};

}  // namespace rnndrop::cpu
