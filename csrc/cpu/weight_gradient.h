// The gradient of one weight: da^T in, summed over the rows of all steps.
//
// Cost: 2 flops for each row, gate row and kept column; beside them one copy of the inputs. Where a mask drops or
// scales columns they come back as the last sums are stored.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/layer_schedule.h"
#include "cpu/layer_weights.h"

namespace rnndrop::cpu {

// Columns of an input of the GEMMs, its rows taken from many steps, packed for the weight's gradient; and that
// gradient.
template <class S, class T = S>
struct WeightGradient {
  using Acc = acc_type<T>;

  // Gets its rows in one piece, or in several of max_rows at most.
  WeightGradient(const Weight<S, T>& weight, void* dW, bool wanted, int64_t max_rows, bool several)
      : weight(weight), dW(static_cast<S*>(dW)), in_place(!is_16_bits<S> && weight.is_whole_of_each_group()) {
    for (const Group<T>& group : weight.groups) {
      if (!wanted) break;
      const int64_t columns = weight.column_blocks(group) * weight.width;
      panels.emplace_back(columns * padded<T>(max_rows));
      if (!in_place && several) sums.emplace_back(group.M() * columns);
    }
  }

  // Elements that pack() needs for rows before they are packed.
  int64_t room_to_pack() const {
    int64_t room = 0;
    for (const Group<T>& group : weight.groups) room = std::max(room, kTogether<T> * room_of_row(group));
    return room;
  }
  int64_t room_of_kept(const Group<T>& group) const { return weight.mask.data ? std::max(group.K(), group.room()) : 0; }
  int64_t room_of_row(const Group<T>& group) const {
    return room_of_kept(group) + (std::is_same_v<S, T> ? 0 : weight.columns);
  }

  // row_of(r) is the input of row r, sample_of(r) its place in the batch; scratch has room_to_pack() elements.
  template <class RowOf, class SampleOf>
  void pack(const Team& team, int64_t B, int64_t rows, const RowOf& row_of, const SampleOf& sample_of,
            T* scratch) const {
    for (int64_t g = 0; g < int64_t(weight.groups.size()); ++g) {
      const Group<T>& group = weight.groups[g];
      const Range mine = team.share(rows, kTogether<T>);
      const int64_t kept_room = room_of_kept(group), room = room_of_row(group);
      for_each_block(mine, kTogether<T>, [&](int64_t r, int64_t n) {
        const auto put = [&](const auto& row) {
          put_in_panels(n, row, group.K(), weight.width, panels[g].data() + r * weight.width,
                        padded<T>(rows) * weight.width);
        };
        if (group.all && !weight.mask_of_sample(g, B, 0)) return put([&](int64_t i) { return row_of(r + i); });
        put([&](int64_t i) -> const T* {
          T* of_row = scratch + i * room;
          const T *in = as_factor(row_of(r + i), of_row + kept_room),
                  *mask = weight.mask_of_sample(g, B, sample_of(r + i));
          if (mask) {
            multiply_elements(of_row, mask, in, group.K());
          } else {
            group.places.gather(in, 0, 1, nullptr, of_row, 0);
          }
          return of_row;
        });
      });
      end_panels(mine, rows, weight.column_blocks(group), weight.width, panels[g].data());
    }
  }

  // sums of group g (+)= da^T in, for the kept gate rows [m, m + M), M <= rows_at_once<T>(), that
  // for_each_da_block(add) calls add(m, M, da_block) for; da_block is as pack_transposed leaves it.
  //
  // A panel of inputs stays in the first cache for all of them. Few rows of inputs stay there all together: then it is
  // the gradient that takes the time, and is written row by row. On AMX some panels stay in the second cache: there is
  // less time to read da in.
  template <class ForEach>
  void add(int64_t g, int64_t rows, bool first, const ForEach& for_each_da_block) const {
    const int64_t blocks = weight.column_blocks(weight.groups[g]);
    const int64_t bytes = rows * weight.width * sizeof(T);
    int64_t at_once = bytes * blocks <= kFirstCache / 2 ? blocks : 1;
    if (amx::multiplies<T>()) at_once = std::max<int64_t>(1, kSecondCache / std::max<int64_t>(bytes, 1));
    for_each_block({0, blocks}, at_once, [&](int64_t begin, int64_t n) {
      for_each_da_block([&](int64_t m, int64_t M, const T* da_block) {
        for (int64_t block = begin; block < begin + n; ++block) add_block(g, m, M, block, da_block, rows, first);
      });
    });
  }

  void add_block(int64_t g, int64_t m, int64_t M, int64_t block, const T* da_block, int64_t rows, bool first) const {
    const Group<T>& group = weight.groups[g];
    const int64_t width = weight.width, n = group.columns_in(block, width);
    const T* panel = panels[g].data() + block * padded<T>(rows) * width;
    const int64_t stride = in_place ? weight.columns : width;
    Acc* out = sums_of(g, block, m);
    if (!in_place || n == columns_multiplied<T>(n)) {
      return multiply_transposed(out, stride, da_block, M, rows, panel, n, !first);
    }
    Acc tile[kMostRowsAtOnce * kWidestPanel];
    multiply_transposed(tile, width, da_block, M, rows, panel, n, false);
    for (int64_t r = 0; r < M; ++r) {
      for (int64_t k = 0; k < n; ++k) {
        Acc& sum = out[r * stride + k];
        sum = first ? tile[r * width + k] : sum + tile[r * width + k];
      }
    }
  }

  // add() for the last piece, where the sums are not in place: all columns of these gate rows, to rows of dW. tile:
  // room for M rows of kept columns, as Group says.
  void add_last(int64_t g, int64_t m, int64_t M, const int32_t* dW_rows, const T* da_block, int64_t rows, bool first,
                Acc* tile) const {
    const Group<T>& group = weight.groups[g];
    const int64_t width = weight.width, blocks = weight.column_blocks(group);
    const int64_t stride = weight.stride_of_sums(group);
    for (int64_t block = 0; block < blocks; ++block) {
      for (int64_t r = 0; !first && r < M; ++r) {
        std::copy_n(sums_of(g, block, m + r), width, tile + r * stride + block * width);
      }
      multiply_transposed(tile + block * width, stride, da_block, M, rows,
                          panels[g].data() + block * padded<T>(rows) * width, group.columns_in(block, width), !first);
    }
    for (int64_t r = 0; r < M; ++r) {
      S* out = dW + dW_rows[r] * weight.columns;
      if (group.mask) {
        scatter_sums(group.places, tile + r * stride, 0, 1, group.mask, out, weight.columns, tile + M * stride);
      } else {
        convert(out, tile + r * stride, weight.columns);
      }
    }
  }

  void zero_row(int64_t row) const { std::fill_n(dW + row * weight.columns, weight.columns, S(0)); }

  const T* as_factor(const S* row, T* buffer) const {
    if constexpr (std::is_same_v<S, T>) {
      return row;
    } else {
      convert(buffer, row, weight.columns);
      return buffer;
    }
  }

  // Where add() adds up those of row m and a block of columns.
  Acc* sums_of(int64_t g, int64_t block, int64_t m) const {
    if constexpr (std::is_same_v<S, Acc>) {
      if (in_place) return dW + (weight.groups[g].first_gate * weight.H + m) * weight.columns + block * weight.width;
    }
    return sums[g].data() + (block * weight.groups[g].M() + m) * weight.width;
  }

  const Weight<S, T>& weight;
  S* dW;
  // Where nothing is dropped, scaled or rounded the sums are dW itself.
  bool in_place;
  std::vector<Buffer<T>> panels;  // of each group: [blocks][rows, width]
  std::vector<Buffer<Acc>> sums;  // of each group: [blocks, M, width], so that those of some rows are neighbours
};

}  // namespace rnndrop::cpu
