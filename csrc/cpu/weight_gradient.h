// The gradient of one weight: da^T in, summed over the rows of all steps.
//
// Cost: 2 flops for each row, gate row and kept column; beside them one copy of the inputs. Where a mask drops or
// scales columns they come back as the last sums are stored.
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
  // Gets its rows in one piece, or in several of max_rows at most.
  WeightGradient(const Weight<T>& weight, void* dW, bool wanted, int64_t max_rows, bool several)
      : weight(weight), dW(static_cast<T*>(dW)), in_place(weight.is_whole_of_each_group()) {
    for (const Group<T>& group : weight.groups) {
      if (!wanted) break;
      const int64_t padded = weight.column_blocks(group) * weight.width;
      panels.emplace_back(padded * max_rows);
      if (!in_place && several) sums.emplace_back(group.M() * padded);
    }
  }

  // row_of(r) is the input of row r, sample_of(r) its place in the batch.
  template <class RowOf, class SampleOf>
  void pack(const Team& team, int64_t B, int64_t rows, const RowOf& row_of, const SampleOf& sample_of) const {
    for (int64_t g = 0; g < int64_t(weight.groups.size()); ++g) {
      const Group<T>& group = weight.groups[g];
      const Range mine = team.share(rows);
      const Buffer<T> scratch(weight.mask.data ? std::max(group.K(), group.room()) : 0);
      for (int64_t r = mine.begin; r < mine.end; ++r) {
        const T *in = row_of(r), *mask = weight.mask_of_sample(g, B, sample_of(r));
        if (mask) {
          for (int64_t k = 0; k < group.K(); ++k) scratch.data()[k] = mask[k] * in[k];
          in = scratch.data();
        } else if (!group.all) {
          group.places.gather(in, 0, 1, nullptr, scratch.data(), 0);
          in = scratch.data();
        }
        put_in_panels(in, group.K(), weight.width, panels[g].data() + r * weight.width, rows * weight.width);
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

  // The same for the last piece, where the sums are not in place: all columns of these gate rows, to rows of dW. tile:
  // room for M rows of kept columns, as Group says.
  void add_last(int64_t g, int64_t m, int64_t M, const int32_t* dW_rows, const T* da_block, int64_t rows, bool first,
                T* tile) const {
    const Group<T>& group = weight.groups[g];
    const int64_t width = weight.width, blocks = weight.column_blocks(group), stride = blocks * width;
    if (first) {
      std::fill_n(tile, M * stride, T(0));
    } else {
      std::copy_n(sums[g].data() + m * stride, M * stride, tile);
    }
    for (int64_t block = 0; block < blocks; ++block) {
      add_transposed_product(tile + block * width, stride, da_block, M, rows, panels[g].data() + block * rows * width);
    }
    for (int64_t r = 0; r < M; ++r) {
      T* out = dW + dW_rows[r] * weight.columns;
      if (group.mask) {
        group.places.scatter(tile + r * stride, 0, 1, group.mask, out, 0);
      } else {
        std::copy_n(tile + r * stride, weight.columns, out);
      }
    }
  }

  void zero_row(int64_t row) const { std::fill_n(dW + row * weight.columns, weight.columns, T(0)); }

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
