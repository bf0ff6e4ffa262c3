// A weight as the backward multiplies it: da W, from panels that hold its kept columns (layer_weights.h), to where
// these columns are in a row of the result.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "cpu/compute_type.h"
#include "cpu/layer_schedule.h"
#include "cpu/layer_weights.h"
#include "cpu/packed_gemm.h"

namespace rnndrop::cpu {

// A panel's product [M, width] to the places of its columns in out: overwrites what is there, or is added to it. mask:
// of all columns, or null.
template <class T>
void put_columns(const Group<T>& group, int64_t block, int64_t width, const acc_type<T>* tile, int64_t M, const T* mask,
                 bool add, acc_type<T>* out, int64_t stride) {
  const int64_t first = block * width, n = group.columns_in(block, width);
  for (int64_t m = 0; m < M; ++m, tile += width, out += stride) {
    if (group.all && !mask && !add) {
      std::copy_n(tile, n, out + first);
      continue;
    }
    for (int64_t k = 0; k < n; ++k) {
      const int64_t column = group.kept[first + k];
      const acc_type<T> value = mask ? mask[column] * tile[k] : tile[k];
      out[column] = add ? out[column] + value : value;
    }
  }
}

// out [M, columns] = in W for a weight of which every column is kept: those in some blocks of `width` of them.
template <class S, class T>
void multiply_in_place(const Weight<S, T>& weight, const Rows<T>& in, int64_t M, Walk walk, const Range& blocks,
                       acc_type<T>* out) {
  const Group<T>& group = weight.groups[0];
  const int64_t width = weight.width;
  acc_type<T> tile[kMostRowBlock * kWidestPanel];
  walk.for_each(blocks.size(), [&](int64_t i) {
    const int64_t block = blocks.begin + i, n = group.columns_in(block, width);
    const T* panel = weight.backward_panel(0, block);
    if (n == columns_multiplied<T>(n)) {
      return multiply_panel(out + block * width, weight.columns, in, M, group.M(), panel, n);
    }
    multiply_panel(tile, width, in, M, group.M(), panel, n);
    put_columns(group, block, width, tile, M, static_cast<const T*>(nullptr), false, out, weight.columns);
  });
}

// out [M, columns] = da W for a weight whose gates have one mask that the batch shares, or none: 0 in dropped columns.
// rows: room for M rows before they are spread or rounded; copies: for the rows of da, as Weight says.
template <class S, class T, class Out>
void multiply_all_columns(const Weight<S, T>& weight, const T* da, int64_t M, Walk walk, Out* out, acc_type<T>* rows,
                          T* copies) {
  const Group<T>& group = weight.groups[0];
  const Rows<T> in = group.gradients.of(weight.da_rows(group, da), M, copies);
  const int64_t width = weight.width, blocks = weight.column_blocks(group), stride = weight.stride_of_sums(group);
  if constexpr (std::is_same_v<Out, acc_type<T>>) {
    if (group.all) return multiply_in_place(weight, in, M, walk, {0, blocks}, out);
  }
  walk.for_each(blocks, [&](int64_t block) {
    multiply_panel(rows + block * width, stride, in, M, group.M(), weight.backward_panel(0, block),
                   group.columns_in(block, width));
  });
  if (!group.all) {
    return scatter_sums(group.places, rows, stride, M, static_cast<const T*>(nullptr), out, weight.columns,
                        rows + M * stride);
  }
  convert(out, weight.columns, rows, stride, M, weight.columns);
}

}  // namespace rnndrop::cpu
