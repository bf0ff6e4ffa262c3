// A layer's projection: h_t = W_hr h^_t, where the cell leaves h^_t = o * tanh(c_t) in h_full.
//
// W_hr is packed or read as W_hh is. What lengths and noise do to h, which without a projection is the step kernel's
// business, is done to the P columns here. Threads that share out the units wait for each other twice a step: for
// h_full of all units, and for h.
//
// Cost: 2 * T * B * P * H flops, and twice as many in the backward.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/backward_panels.h"
#include "cpu/buffer.h"
#include "cpu/compute_type.h"
#include "cpu/convert.h"
#include "cpu/forward_panels.h"
#include "cpu/from_torch.h"
#include "cpu/layer_schedule.h"
#include "cpu/layer_weights.h"
#include "cpu/packed_gemm.h"
#include "cpu/threads.h"
#include "cpu/weight_gradient.h"
#include "lstm_cell.h"
#include "params.h"

namespace rnndrop::cpu {

// W_hr: a weight of a single gate, of P units.
template <class S, class T>
struct ProjectionWeight {
  explicit ProjectionWeight(const LayerProblem& layer)
      : rows(layer.P), weight(layer.W_hr, {}, rows, layer.H, /*gates=*/1) {}
  KeptRows rows;
  Weight<S, T> weight;
};

// Neighbours in memory of [B,P]: work(sample, first element, their number). A row each where samples differ, or where
// the columns are not all.
template <class Work>
void for_each_run(const LayerProblem& layer, int64_t b, int64_t M, const Range& columns, const Work& work) {
  if (columns.size() == layer.P && !layer.lengths && !layer.noise.zone_h.data) return work(b, b * layer.P, M * layer.P);
  for (int64_t m = b; m < b + M; ++m) work(m, m * layer.P + columns.begin, columns.size());
}

// n elements of z at step t, of sample b from a column on.
template <class S, class Acc>
void load_zone(Acc* out, const LayerProblem& layer, int64_t t, int64_t b, int64_t column, int64_t n) {
  const RowNoise zone = layer.noise.zone_h.at_step(t);
  convert(out, static_cast<const S*>(zone.data) + b * zone.stride + column, n);
}

// S is stored, T multiplied.
template <class S, class T>
class ForwardProjection {
  using Acc = acc_type<T>;

 public:
  // mask_h: [n_h_tilde,B,P] where each sample has one, else null.
  ForwardProjection(const LayerForward& layer, bool packs, const S* mask_h, int64_t n_h_tilde)
      : layer_(layer),
        W_hr_(layer),
        memory_{packs ? Packing::before : Packing::never, {}},
        mask_h_(mask_h),
        n_h_tilde_(n_h_tilde) {
    const Weight<S, T>& weight = W_hr_.weight;
    if (packs) {
      memory_.before.emplace_back(ForwardPanels<S, T>::storage_for(weight, weight.groups[0], most_threads()));
    }
  }

  struct Member {
    Range columns;  // of h
    int64_t row_stride;
    ForwardPanels<S, T> panels;
    Buffer<Acc> sums, noise;
    Buffer<T> copies;
  };

  // Packs the member's share of the weight too.
  Member prepare(const Team& team, bool rows_split) const {
    const Weight<S, T>& weight = W_hr_.weight;
    const Range columns = rows_split ? Range{0, layer_.P} : team.share(layer_.P, weight.width);
    const int64_t row_stride = round_up(columns.size(), weight.width);
    const int64_t most_rows = most_rows_of_walk(row_block<T>(layer_));
    Member member{columns,
                  row_stride,
                  {weight, memory_, columns, rows_split ? 0 : team.rank, {row_stride, 0, columns.begin, true}},
                  Buffer<Acc>(most_rows * row_stride),
                  Buffer<Acc>(most_rows * columns.size()),
                  Buffer<T>(weight.room_for_inputs(most_rows))};
    member.panels.pack(rows_split ? team : Team{0, 1});
    return member;
  }

  // y_t, and what is kept of h_t beside it, for M samples from b on and the member's columns. h_full: these samples';
  // h_tilde_next: [n_h_tilde,B,P], or null where none is kept.
  void run(int64_t t, int64_t b, int64_t M, Walk walk, const S* h_full, S* h_tilde_next, const Member& mine) const {
    const Rows<S> in{h_full, layer_.H, nullptr};
    Acc* sums = mine.sums.data();
    mine.panels.multiply(0, sums, W_hr_.weight.groups[0].inputs.of(in, M, mine.copies.data()), M, walk);
    const int64_t n = mine.columns.size();
    for (int64_t m = 1; m < M && n < mine.row_stride; ++m) std::copy_n(sums + m * mine.row_stride, n, sums + m * n);
    for_each_run(layer_, b, M, mine.columns, [&](int64_t sample, int64_t at, int64_t count) {
      finish(t, sample, at, count, sums, h_tilde_next, mine);
      sums += count;
    });
  }

 private:
  // n elements from `at` on, which belong to a single sample where there are lengths or zoneout.
  void finish(int64_t t, int64_t b, int64_t at, int64_t n, Acc* h, S* h_tilde_next, const Member& mine) const {
    S* y = static_cast<S*>(layer_.y) + t * layer_.B * layer_.P + at;
    S* h_state = layer_.h_n ? static_cast<S*>(layer_.h_n) + at : nullptr;
    if (layer_.lengths && t >= layer_.lengths[b]) {
      std::fill_n(y, n, S(0));
      if (h_tilde_next) convert(h, h_state, n);
    } else {
      if (layer_.noise.zone_h.data) {
        Acc *before = mine.noise.data(), *z = before + n;
        convert(before, h_state, n);
        load_zone<S>(z, layer_, t, b, mine.columns.begin, n);
        for (int64_t k = 0; k < n; ++k) h[k] = zoneout(z[k], before[k], h[k]);
      }
      convert(y, h, n);
      if (h_state) convert(h_state, h, n);
    }
    if (!h_tilde_next) return;
    for (int64_t g = 0; g < n_h_tilde_; ++g) {
      const int64_t of_gate = g * layer_.B * layer_.P + at;
      if (!mask_h_) {
        convert(h_tilde_next + of_gate, h, n);
        continue;
      }
      Acc* masked = mine.noise.data();
      convert(masked, mask_h_ + of_gate, n);
      multiply_elements(masked, masked, h, n);
      convert(h_tilde_next + of_gate, masked, n);
    }
  }

  const LayerForward& layer_;
  ProjectionWeight<S, T> W_hr_;
  PanelMemory<T> memory_;
  const S* mask_h_;
  int64_t n_h_tilde_;
};

// S is stored, T multiplied.
template <class S, class T>
class BackwardProjection {
  using Acc = acc_type<T>;

 public:
  // steps: of a chunk. mask_h: [n_h_tilde,B,P] where each sample has one, else null.
  BackwardProjection(const LayerBackward& layer, int64_t steps, bool packs, const S* mask_h)
      : layer_(layer),
        W_hr_(layer),
        packs_(packs),
        mask_h_(mask_h),
        dh_(steps * layer.B * layer.P),
        dh_full_(layer.B * layer.H) {
    if (packs) W_hr_.weight.allocate_backward();
  }

  const Weight<S, T>& weight() const { return W_hr_.weight; }
  const T* dh() const { return dh_.data(); }              // [steps,B,P] dL/dh of a chunk
  const Acc* dh_full() const { return dh_full_.data(); }  // [B,H] dL/d(o * tanh(c)) of a step

  struct Member {
    Range panels, units;  // of h_full
    Buffer<Acc> sums, noise;
    Buffer<T> copies;
  };

  // Packs the member's share of the weight too.
  Member prepare(const Team& team, bool by_rows) const {
    const Weight<S, T>& weight = W_hr_.weight;
    const int64_t n_panels = weight.column_blocks(weight.groups[0]), H = layer_.H;
    const Range panels = by_rows ? Range{0, n_panels} : team.share(n_panels);
    const Range of_panels{panels.begin * weight.width, std::min(H, panels.end * weight.width)};
    if (packs_) weight.pack_backward(team);
    const int64_t most_rows = most_rows_of_walk(row_block<T>(layer_));
    return {panels,
            packs_    ? of_panels
            : by_rows ? Range{0, H}
                      : weight.share_of_columns(team),
            Buffer<Acc>(most_rows * layer_.P), Buffer<Acc>(most_rows * layer_.P),
            Buffer<T>(weight.room_for_gradients(most_rows))};
  }

  // dL/dh of step t, the `place`th of its chunk, for M samples from b on and some columns. dh_tilde_next:
  // [n_h_tilde,B,P], null at the last step; dh_carry: as StepBackward has it.
  void add_gradients_of_h(int64_t t, int64_t place, int64_t b, int64_t M, const Range& columns,
                          const Acc* dh_tilde_next, Acc* dh_carry, const Member& mine) const {
    for_each_run(layer_, b, M, columns, [&](int64_t sample, int64_t at, int64_t n) {
      Acc *dh = mine.sums.data(), *other = mine.noise.data();
      Acc* carry = dh_carry ? dh_carry + at : nullptr;
      if (carry) {
        std::copy_n(carry, n, dh);
      } else {
        std::fill_n(dh, n, Acc(0));
      }
      const int64_t n_h_tilde = dh_tilde_next ? layer_.mask_h.inputs_of_sample() : 0;
      for (int64_t g = 0; g < n_h_tilde; ++g) {
        const int64_t of_gate = g * layer_.B * layer_.P + at;
        add_masked(dh, dh_tilde_next + of_gate, mask_h_ ? mask_h_ + of_gate : nullptr, other, n);
      }
      T* out = dh_.data() + place * layer_.B * layer_.P + at;
      if (layer_.lengths && t >= layer_.lengths[sample]) {
        if (carry) std::copy_n(dh, n, carry);
        std::fill_n(out, n, T(0));
        return;
      }
      if (layer_.dy) {
        convert(other, static_cast<const S*>(layer_.dy) + t * layer_.B * layer_.P + at, n);
        for (int64_t k = 0; k < n; ++k) dh[k] += other[k];
      }
      if (layer_.noise.zone_h.data) {
        load_zone<S>(other, layer_, t, sample, columns.begin, n);
        for (int64_t k = 0; k < n; ++k) {
          carry[k] = other[k] * dh[k];
          dh[k] *= 1 - other[k];
        }
      } else if (carry) {
        std::fill_n(carry, n, Acc(0));
      }
      convert(out, dh, n);
    });
  }

  // dh_full = dh W_hr at that step: these samples, the member's units.
  void multiply(int64_t place, int64_t b, int64_t M, Walk walk, const Member& mine) const {
    const Weight<S, T>& weight = W_hr_.weight;
    const T* dh = dh_.data() + (place * layer_.B + b) * layer_.P;
    Acc* out = dh_full_.data() + b * layer_.H;
    if (!packs_) return weight.multiply_by_rows(dh, M, mine.units, out);
    const Group<T>& group = weight.groups[0];
    const Rows<T> in = group.gradients.of(weight.da_rows(group, dh), M, mine.copies.data());
    multiply_in_place(weight, in, M, walk, mine.panels, out);
  }

 private:
  // dh += mask * in; without a mask += in.
  static void add_masked(Acc* dh, const Acc* in, const S* mask, Acc* factors, int64_t n) {
    if (!mask) {
      for (int64_t k = 0; k < n; ++k) dh[k] += in[k];
      return;
    }
    convert(factors, mask, n);
    for (int64_t k = 0; k < n; ++k) dh[k] += factors[k] * in[k];
  }

  const LayerBackward& layer_;
  ProjectionWeight<S, T> W_hr_;
  bool packs_;
  const S* mask_h_;
  Buffer<T> dh_;
  Buffer<Acc> dh_full_;
};

// dW_hr = dh^T h_full, summed over all steps: each thread owns rows of it, columns of h.
template <class S, class T>
class ProjectionGradient {
  using Acc = acc_type<T>;

 public:
  // Gets its rows in pieces of max_rows at most, one or several.
  ProjectionGradient(const LayerBackward& layer, const Weight<S, T>& weight, int64_t max_rows, bool several)
      : layer_(layer), max_rows_(max_rows), dW_hr_(weight, layer.dW_hr, layer.need_dW, max_rows, several) {}

  struct Share {
    Range columns;
    Buffer<T> dh_packed, inputs;
    Buffer<Acc> sums_of_dh, tile;
  };

  Share prepare(const Team& team) const {
    const Weight<S, T>& weight = dW_hr_.weight;
    const Range columns = team.share(layer_.P, rows_at_once<T>());
    Share share{columns, Buffer<T>(round_up(columns.size(), rows_at_once<T>()) * padded<T>(max_rows_)),
                Buffer<T>(dW_hr_.room_to_pack()), Buffer<Acc>(layer_.P),
                Buffer<Acc>(dW_hr_.in_place ? 0 : kMostRowsAtOnce * weight.stride_of_sums(weight.groups[0]))};
    std::fill_n(share.sums_of_dh.data(), layer_.P, Acc(0));
    return share;
  }

  // n rows [.., P] of dh and [.., H] of h_full.
  void pack(const Team& team, const T* dh, const S* h_full, int64_t n, const Share& mine) const {
    const auto row_of = [&](int64_t r) { return h_full + r * layer_.H; };
    dW_hr_.pack(team, layer_.B, n, row_of, [](int64_t r) { return r; }, mine.inputs.data());
    for_each_block_of(mine, n, [&](int64_t p, int64_t M, T* packed) {
      const Rows<T> columns{dh, layer_.P, dW_hr_.weight.groups[0].rows.data() + p};
      pack_transposed(packed, 0, columns, M, n, mine.sums_of_dh.data());
      end_transposed(packed, n);
    });
  }

  // Adds what is packed.
  void add(int64_t n, bool is_first, bool is_last, const Share& mine) const {
    const Group<T>& group = dW_hr_.weight.groups[0];
    if (is_last && !dW_hr_.in_place) {
      return for_each_block_of(mine, n, [&](int64_t p, int64_t M, const T* packed) {
        dW_hr_.add_last(0, p, M, group.rows.data() + p, packed, n, is_first, mine.tile.data());
      });
    }
    dW_hr_.add(0, n, is_first, [&](const auto& add) { for_each_block_of(mine, n, add); });
  }

 private:
  // work(first column, how many, where n rows of them are packed)
  template <class Work>
  static void for_each_block_of(const Share& mine, int64_t n, const Work& work) {
    T* packed = mine.dh_packed.data();
    for_each_block(mine.columns, rows_at_once<T>(), [&](int64_t p, int64_t M) {
      work(p, M, packed);
      packed += padded<T>(n) * rows_at_once<T>();
    });
  }

  const LayerBackward& layer_;
  int64_t max_rows_;
  WeightGradient<S, T> dW_hr_;
};

}  // namespace rnndrop::cpu
