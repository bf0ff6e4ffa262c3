// The gradients of a layer's weights and biases: for both weights and for the rows of da of a few steps, what
// weight_gradient.h does for one weight.
//
// They are sums over the batch, which the threads share: each owns rows of the gates, split once in a few steps.
//
// Cost: 2 * T * B * 4H * (I + H) flops, times the share kept; beside them one copy of x, h and da.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "cpu/layer_schedule.h"
#include "cpu/layer_weights.h"
#include "cpu/outer_products.h"
#include "cpu/packed_gemm.h"
#include "cpu/projection.h"
#include "cpu/running_rows.h"
#include "cpu/threads.h"
#include "cpu/weight_gradient.h"
#include "params.h"

namespace rnndrop::cpu {

// S is stored, T multiplied.
template <class S, class T>
class LayerWeightGradients {
  using Acc = acc_type<T>;

 public:
  // W_hr: or null. steps: that are added at once, at most. running: lives as long as this.
  LayerWeightGradients(const LayerBackward& layer, const KeptRows& rows, const Weight<S, T>& x_weight,
                       const Weight<S, T>& h_weight, const Weight<S, T>* W_hr, int64_t steps,
                       const RunningRows& running)
      : layer_(layer),
        running_(running),
        // The projection's takes all rows as they lie.
        lists_rows_(layer.need_dW && layer.lengths && !W_hr),
        rows_of_chunk_(steps * layer.B),
        gate_rows_(rows.rows_of_gates(0, kGates)),
        rows_packed_(rows_of_piece(steps * layer.B)),
        dW_ih_(x_weight, layer.dW_ih, layer.need_dW, rows_packed_, layer.T * layer.B > rows_packed_),
        dW_hh_(h_weight, layer.dW_hh, layer.need_dW, rows_packed_, layer.T * layer.B > rows_packed_),
        no_x_(layer.need_dW && layer.lengths ? layer.I : 0) {
    if (no_x_.data()) std::fill_n(no_x_.data(), layer.I, S(0));
    if (W_hr && layer.need_dW) dW_hr_.emplace(layer, *W_hr, rows_packed_, layer.T * layer.B > rows_packed_);
  }

  // A member's: rows of each group of gates, as ranges of gate_rows_, and memory.
  struct Share {
    std::vector<Range> gate_rows;
    Buffer<T> da_packed;
    Buffer<T> inputs;      // rows of x or h, before they are packed
    Buffer<int64_t> rows;  // of a chunk: those that are packed, or none for all
    std::optional<typename ProjectionGradient<S, T>::Share> projection;
  };

  Share prepare(const Team& team) const {
    std::vector<Range> gate_rows = shares_of_gate_rows(team);
    int64_t my_rows = 0;
    for (const Range& share : gate_rows) my_rows += round_up(share.size(), rows_at_once<T>());
    const int64_t packed_rows = layer_.need_dW ? padded<T>(rows_packed_) : 0;
    Share share{std::move(gate_rows),
                Buffer<T>(my_rows * packed_rows),
                Buffer<T>(layer_.need_dW ? std::max(dW_ih_.room_to_pack(), dW_hh_.room_to_pack()) : 0),
                Buffer<int64_t>(lists_rows_ ? rows_of_chunk_ : 0),
                {}};
    if (dW_hr_) share.projection.emplace(dW_hr_->prepare(team));
    return share;
  }

  // Adds steps [begin, begin + n), the chunks of the backward in its order, with da [n,B,4H] complete, and dh [n,B,P]
  // where there is W_hr. When it returns all have read them. kept_tile: as WeightGradient::add_last wants it.
  void add_steps(const Team& team, int64_t begin, int64_t n, const T* da, const T* dh, const Share& mine,
                 Acc* kept_tile) const {
    const int64_t rows = lists_rows_ ? list_rows(begin, n, mine.rows.data()) : n * layer_.B;
    const int64_t piece = round_up(std::min(rows_of_piece(rows), rows_packed_), kTogether<T>);
    const int64_t done = layer_.order.reverse ? begin : layer_.T - begin - n;
    for (int64_t r = 0; r == 0 || r < rows; r += piece) {  // once also where there are none, whose sums are 0
      const int64_t n_rows = std::min(piece, rows - r);
      const Places of_piece{r, lists_rows_ ? mine.rows.data() : nullptr};
      if (r > 0) team.barrier();  // all have read what is packed
      pack_inputs(team, begin, of_piece, n_rows, mine.inputs.data());
      pack_da(mine.gate_rows, da, of_piece, n_rows, mine.da_packed.data());
      if (dW_hr_) {
        const S* h_full = static_cast<const S*>(layer_.h_full) + (begin * layer_.B + r) * layer_.H;
        dW_hr_->pack(team, dh + r * layer_.P, h_full, n_rows, *mine.projection);
      }
      team.barrier();
      const bool is_first = done + r == 0, is_last = done + n == layer_.T && r + n_rows == rows;
      add_packed(mine.gate_rows, n_rows, mine.da_packed.data(), is_first, is_last, kept_tile);
      write_outer_products(mine.gate_rows, begin, n_rows, da);
      if (dW_hr_) dW_hr_->add(n_rows, is_first, is_last, *mine.projection);
    }
  }

  void zero_dropped_rows(const Range& rows) const {
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      if (std::binary_search(gate_rows_.begin(), gate_rows_.end(), row)) continue;
      dW_ih_.zero_row(row);
      dW_hh_.zero_row(row);
    }
  }

 private:
  // Rows of a chunk in the order in which they are packed, from the `first` on.
  struct Places {
    int64_t first;
    const int64_t* rows;  // or null: all of them
    int64_t operator[](int64_t i) const { return rows ? rows[first + i] : first + i; }
    // How many of n from the i-th on are neighbours.
    int64_t run(int64_t i, int64_t n) const {
      if (!rows) return n;
      int64_t length = 1;
      while (length < n && rows[first + i + length] == rows[first + i] + length) ++length;
      return length;
    }
  };

  // Those that run at these steps; returns their number. Every run but the last is of whole kTogether rows, since that
  // many are packed together; what is added to fill one up has no gradient.
  int64_t list_rows(int64_t begin, int64_t n, int64_t* list) const {
    int64_t listed = 0;
    running_.for_each_part(begin, {0, n * layer_.B}, [&](int64_t first, int64_t running, int64_t ended) {
      const int64_t taken = std::min(round_up(running, kTogether<T>), running + ended);
      for (int64_t r = 0; r < taken; ++r) list[listed++] = first + r;
    });
    return listed;
  }

  // A chunk of a large batch has more rows than the second cache holds panels of.
  static int64_t rows_of_piece(int64_t rows) {
    const int64_t pieces = std::max<int64_t>(1, (rows + kChunkRows / 2) / kChunkRows);
    // At least 1: a loop over pieces must advance, without rows too.
    return std::max<int64_t>(1, (rows + pieces - 1) / pieces);
  }

  // The index in gate_rows_ of its first row >= row.
  int64_t place_of(int64_t row) const {
    return std::lower_bound(gate_rows_.begin(), gate_rows_.end(), row) - gate_rows_.begin();
  }

  std::vector<Range> shares_of_gate_rows(const Team& team) const {
    // The finer groups, one for each gate, where either weight has them, so that both are cut alike.
    const int64_t n = std::max(dW_ih_.weight.groups.size(), dW_hh_.weight.groups.size()), rows = kGates / n * layer_.H;
    std::vector<Range> shares;
    for (int64_t g = 0; g < n; ++g) {
      const int64_t begin = place_of(g * rows), end = place_of((g + 1) * rows);
      const Range share = team.share(end - begin, rows_at_once<T>());
      shares.push_back({begin + share.begin, begin + share.end});
    }
    return shares;
  }

  // n rows of da. Adds their sums to db on the way.
  void pack_da(const std::vector<Range>& shares, const T* da, const Places& places, int64_t n, T* da_packed) const {
    const int64_t stride = kGates * layer_.H;
    for (const Range& share : shares) {
      for_each_block(share, rows_at_once<T>(), [&](int64_t m, int64_t M) {
        for (int64_t r = 0, run; r < n; r += run) {
          run = places.run(r, n - r);
          pack_transposed(da_packed, r, Rows<T>{da + places[r] * stride, stride, gate_rows_.data() + m}, M, run,
                          static_cast<Acc*>(layer_.db));
        }
        end_transposed(da_packed, n);
        da_packed += padded<T>(n) * rows_at_once<T>();
      });
    }
  }

  // Whether a gradient is written from so few rows as they lie, which are then all in one piece.
  bool is_of_outer_products(const WeightGradient<S, T>& gradient) const {
    const bool as_they_lie = gradient.in_place && gradient.weight.groups.size() == 1 && !gradient.weight.mask.data;
    const int64_t rows = layer_.T * layer_.B;
    return as_they_lie && !layer_.lengths && 0 < rows && rows <= kMostOuterProducts;
  }

  // The rows that da multiplies: of x and of h before the step, at place r from step `begin` on.
  const S* x_row(int64_t begin, int64_t r) const {
    return static_cast<const S*>(layer_.x) + (begin * layer_.B + r) * layer_.I;
  }
  const S* h_row_before(int64_t begin, int64_t r) const {
    const TimeOrder& order = layer_.order;
    const int64_t t = begin + r / layer_.B, b = r % layer_.B;
    // Backwards in time a sample begins at its own end; y is 0 past it.
    const bool is_first = t == order.first() || (order.reverse && layer_.lengths && t + 1 == layer_.lengths[b]);
    return is_first ? static_cast<const S*>(layer_.h_0) + b * layer_.P
                    : static_cast<const S*>(layer_.y) + (order.before(t) * layer_.B + b) * layer_.P;
  }

  // What n rows of da multiply, counted from step `begin`.
  void pack_inputs(const Team& team, int64_t begin, const Places& places, int64_t n, T* scratch) const {
    const int64_t B = layer_.B;
    const auto sample_of = [&](int64_t r) { return places[r] % B; };
    // Where a sample has ended da is 0, but x may be anything.
    const auto has_ended = [&](int64_t r) {
      return layer_.lengths && begin + places[r] / B >= layer_.lengths[sample_of(r)];
    };
    const auto x = [&](int64_t r) { return has_ended(r) ? no_x_.data() : x_row(begin, places[r]); };
    const auto h_before = [&](int64_t r) { return h_row_before(begin, places[r]); };
    if (!is_of_outer_products(dW_ih_)) dW_ih_.pack(team, B, n, x, sample_of, scratch);
    if (!is_of_outer_products(dW_hh_)) dW_hh_.pack(team, B, n, h_before, sample_of, scratch);
  }

  void write_outer_products(const std::vector<Range>& shares, int64_t begin, int64_t n, const T* da) const {
    if constexpr (std::is_same_v<S, Acc>) {
      const auto write = [&](const WeightGradient<S, T>& gradient, const auto& row_of) {
        if (!is_of_outer_products(gradient)) return;
        for (const Range& share : shares) {
          const T *of_da[kMostOuterProducts], *in[kMostOuterProducts];
          for (int64_t r = 0; r < n; ++r) {
            of_da[r] = da + r * kGates * layer_.H + share.begin;
            in[r] = row_of(r);
          }
          const int64_t columns = gradient.weight.columns;
          outer_products(gradient.dW + share.begin * columns, share.size(), columns, of_da, in, n);
        }
      };
      write(dW_ih_, [&](int64_t r) { return x_row(begin, r); });
      write(dW_hh_, [&](int64_t r) { return h_row_before(begin, r); });
    }
  }

  // Where the last sums are not stored as they are, those of a few gate rows are made for all columns before the next.
  void add_packed(const std::vector<Range>& shares, int64_t rows, const T* da_packed, bool is_first, bool is_last,
                  Acc* kept_tile) const {
    for (const WeightGradient<S, T>* gradient : {&dW_ih_, &dW_hh_}) {
      if (is_of_outer_products(*gradient)) continue;
      const int64_t of_group = gradient->weight.groups[0].n_gates * layer_.H;
      const T* of_share = da_packed;
      for (const Range& share : shares) {
        if (share.size() == 0) continue;
        const int64_t g = gate_rows_[share.begin] / of_group, first_of_group = place_of(g * of_group);
        const auto for_each_da_block = [&](const auto& add) {
          const T* da_block = of_share;
          for_each_block(share, rows_at_once<T>(), [&](int64_t m, int64_t M) {
            add(m, M, da_block);
            da_block += padded<T>(rows) * rows_at_once<T>();
          });
        };
        if (is_last && !gradient->in_place) {
          for_each_da_block([&](int64_t m, int64_t M, const T* da_block) {
            gradient->add_last(g, m - first_of_group, M, gate_rows_.data() + m, da_block, rows, is_first, kept_tile);
          });
        } else {
          gradient->add(g, rows, is_first, [&](const auto& add) {
            for_each_da_block([&](int64_t m, int64_t M, const T* da_block) { add(m - first_of_group, M, da_block); });
          });
        }
        of_share += round_up(share.size(), rows_at_once<T>()) * padded<T>(rows);
      }
    }
  }

  const LayerBackward& layer_;
  const RunningRows& running_;
  bool lists_rows_;
  int64_t rows_of_chunk_;           // at most
  std::vector<int32_t> gate_rows_;  // of [0, 4H), that are multiplied
  int64_t rows_packed_;             // at once, at most
  WeightGradient<S, T> dW_ih_, dW_hh_;
  Buffer<S> no_x_;  // a row of zeros, where there are lengths
  std::optional<ProjectionGradient<S, T>> dW_hr_;
};

}  // namespace rnndrop::cpu
