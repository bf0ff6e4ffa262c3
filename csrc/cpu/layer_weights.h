// The engine's weights: which rows and columns of W_ih and W_hh are multiplied, and the backward's products with them.
//
// What a mask drops for the whole batch and sequence is neither packed nor multiplied: columns of x and h, and the rows
// of i and g of units without a candidate. At p = 0.5 the columns are half of the arithmetic, the rows a quarter.
//
// Cost: one pass over each weight a call, for the panels; none where the weight is read where it lies.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "cpu/buffer.h"
#include "cpu/compact_rows.h"
#include "cpu/compute_type.h"
#include "cpu/packed_gemm.h"
#include "cpu/threads.h"
#include "cpu/unpacked_gemm.h"
#include "params.h"

namespace rnndrop::cpu {

// Units of which a gate is computed.
struct Units {
  std::vector<int32_t> kept;
  bool all;
  int64_t size() const { return kept.size(); }
};

// Rows of the weights that are multiplied. Where a mask_g that all steps and samples share drops a unit, i * (m_g * g)
// is 0 whatever i and g are, and so are both their gradients.
class KeptRows {
 public:
  template <class T>
  KeptRows(const LayerProblem& layer, const T* mask_g) : H(layer.H) {
    for (int64_t j = 0; j < H; ++j) {
      every_unit_.kept.push_back(j);
      if (!mask_g || mask_g[j] != 0) with_candidate_.kept.push_back(j);
    }
    every_unit_.all = true;
    with_candidate_.all = with_candidate_.size() == H;
  }

  bool all() const { return with_candidate_.all; }
  const Units& units(int64_t gate) const {
    return gate == kInput || gate == kCandidate ? with_candidate_ : every_unit_;
  }
  // Of n gates from `first` on, counted from the first of these gates' rows.
  std::vector<int32_t> rows_of_gates(int64_t first, int64_t n) const { return rows_of_gates(first, n, {0, H}); }
  std::vector<int32_t> rows_of_gates(int64_t first, int64_t n, const Range& of_units) const {
    std::vector<int32_t> rows;
    for (int64_t gate = 0; gate < n; ++gate) {
      for (const int32_t unit : units(first + gate).kept) {
        if (of_units.begin <= unit && unit < of_units.end) rows.push_back(gate * H + unit);
      }
    }
    return rows;
  }

  const int64_t H;

 private:
  Units every_unit_, with_candidate_;
};

// The mask_g that all steps and samples share, else null.
template <class T>
const T* shared_mask_g(const LayerProblem& layer) {
  const SequenceNoise& mask = layer.noise.mask_g;
  return mask.step_bytes == 0 && mask.row_stride == 0 ? static_cast<const T*>(mask.data) : nullptr;
}

// Gates that multiply the same columns of their input: all four, or one where each has a mask of its own.
template <class T>
struct Group {
  int64_t first_gate, n_gates;
  std::vector<int32_t> kept;  // columns that are multiplied
  std::vector<T> scale;       // the mask there; empty where there is none
  const T* mask;              // the mask everywhere; null where there is none
  bool all;                   // every column is kept
  std::vector<int32_t> rows;  // of these gates, that are multiplied
  bool all_rows;
  CompactRows<T> inputs, gradients;  // x or h at the kept columns, da at the rows
  int64_t K() const { return kept.size(); }
  int64_t padded_K() const { return round_up(K(), kTogether<T>); }
  int64_t M() const { return rows.size(); }
  int64_t padded_M() const { return round_up(M(), kTogether<T>); }
  const int32_t* columns() const { return all ? nullptr : kept.data(); }
  // Of 16 bits: the kept columns of a row of the weight, scaled as the mask says; in the buffer, unless that is the
  // row.
  const T* kept_of(const T* row, int64_t columns, T* buffer) const {
    if (!mask) return row;
    copy_chosen(buffer, row, mask, inputs.bits(), columns);
    return buffer;
  }
  int64_t room_for_kept(int64_t n_rows) const { return mask ? n_rows * padded_K() + 32 : 0; }
  T scale_of(int64_t k) const { return scale.empty() ? T(1) : scale[k]; }
};

template <class T>
std::vector<Group<T>> groups_of(const InputMask& mask, int64_t K, const KeptRows& rows) {
  const int64_t n = mask.data && mask.per_gate ? kGates : 1;
  std::vector<Group<T>> groups;
  for (int64_t g = 0; g < n; ++g) {
    std::vector<int32_t> kept;
    std::vector<T> scale;
    const T* shared = mask.data && !mask.per_sample ? static_cast<const T*>(mask.data) + g * K : nullptr;
    for (int64_t k = 0; k < K; ++k) {
      if (shared && shared[k] == 0) continue;
      kept.push_back(k);
      if (shared) scale.push_back(shared[k]);
    }
    std::vector<int32_t> of_gates = rows.rows_of_gates(g, kGates / n);
    const CompactRows<T> inputs(kept, K), gradients(of_gates, kGates / n * rows.H);
    const bool all = int64_t(kept.size()) == K;
    groups.push_back({g, kGates / n, std::move(kept), std::move(scale), shared, all, std::move(of_gates), rows.all(),
                      inputs, gradients});
  }
  return groups;
}

// Kept columns [first, first + n) of a row of the weight, scaled as the mask says.
template <class T>
void copy_kept(const Group<T>& group, const T* row, int64_t first, int64_t n, T* out) {
  const int32_t* kept = group.kept.data() + first;
  if (group.scale.empty()) {  // there is no mask, and all are kept
    std::copy_n(row + first, n, out);
  } else {
    for (int64_t k = 0; k < n; ++k) out[k] = row[kept[k]] * group.scale[first + k];
  }
}

// W_ih or W_hh [4H, columns] with its mask; packed for the backward here, for the forward in forward_panels.h.
template <class T>
struct Weight {
  Weight(const void* W, const InputMask& mask, const KeptRows& rows, int64_t columns)
      : W(static_cast<const T*>(W)),
        mask(mask),
        rows(rows),
        H(rows.H),
        columns(columns),
        width(panel_width<T>()),
        groups(groups_of<T>(mask, columns, rows)) {}

  // Elements of a buffer for copies of so many rows of x or h, or of da.
  int64_t room_for_inputs(int64_t rows) const {
    int64_t room = 0;
    for (const Group<T>& group : groups) room = std::max(room, group.inputs.room_for(rows));
    return room;
  }
  int64_t room_for_gradients(int64_t rows) const {
    int64_t room = 0;
    for (const Group<T>& group : groups) room = std::max(room, group.gradients.room_for(rows));
    return room;
  }

  int64_t column_blocks(const Group<T>& group) const { return (group.K() + width - 1) / width; }

  // For da W: a panel holds `width` kept columns of the group's kept rows, [M, width].
  void allocate_backward() {
    for (const Group<T>& group : groups) panels.emplace_back(column_blocks(group) * group.padded_M() * width);
  }
  T* backward_panel(int64_t g, int64_t block) const { return panels[g].data() + block * groups[g].padded_M() * width; }
  void pack_backward(const Team& team) const {
    for (int64_t g = 0; g < int64_t(groups.size()); ++g) {
      const Group<T>& group = groups[g];
      if constexpr (is_16_bits<T>) {
        pack_pairs_backward(g, team.share(group.M(), kTogether<T>));
        continue;
      }
      const Range blocks = team.share(column_blocks(group));
      for (int64_t block = blocks.begin; block < blocks.end; ++block) {
        T* panel = backward_panel(g, block);
        const int64_t first = block * width, n = std::min(width, group.K() - first);
        for (int64_t r = 0; r < group.M(); ++r) {
          const T* row = W + (group.first_gate * H + group.rows[r]) * columns;
          copy_kept(group, row, first, n, panel + r * width);
          std::fill_n(panel + r * width + n, width - n, T(0));
        }
      }
    }
  }

  void pack_pairs_backward(int64_t g, const Range& rows) const {
    const Group<T>& group = groups[g];
    const Buffer<T> kept(2 * group.room_for_kept(1));
    for (int64_t r = rows.begin; r < rows.end; r += 2) {
      const T* pair[2] = {nullptr, nullptr};
      for (int64_t i = 0; i < 2 && r + i < rows.end; ++i) {
        pair[i] = group.kept_of(W + (group.first_gate * H + group.rows[r + i]) * columns, columns,
                                kept.data() + i * group.room_for_kept(1));
      }
      for (int64_t block = 0; block < column_blocks(group); ++block) {
        const int64_t first = block * width;
        pack_pair(backward_panel(g, block) + r * width, pair[0] + first, pair[1] ? pair[1] + first : nullptr,
                  std::min(width, group.K() - first));
      }
    }
  }

  // Whether all of it is multiplied as it is, so that it can be read where it lies.
  bool is_whole() const { return groups.size() == 1 && is_whole_of_each_group(); }
  bool is_whole_of_each_group() const {
    return std::all_of(groups.begin(), groups.end(),
                       [](const Group<T>& group) { return group.all && group.all_rows && group.scale.empty(); });
  }
  // out[M, columns of the range] = da W, W where it lies. The range has unpacked_columns() columns or more.
  void multiply_by_rows(const T* da, int64_t M, const Range& range, acc_type<T>* out) const {
    const int64_t at_once = unpacked_columns<T>(), whole = range.size() / at_once * at_once;
    const auto multiply = [&](int64_t first, int64_t n) {
      cpu::multiply_by_rows(out + first, columns, da, kGates * H, M, kGates * H, W + first, columns, n);
    };
    multiply(range.begin, whole);
    // What is left over is multiplied with columns before it, again.
    if (whole < range.size()) multiply(range.end - at_once, at_once);
  }
  // A member's columns for that, or all where there are too few to share.
  bool shares_columns(const Team& team) const { return columns / unpacked_columns<T>() >= team.size; }
  Range share_of_columns(const Team& team) const {
    const int64_t at_once = unpacked_columns<T>();
    const Range blocks = team.share(columns / at_once);
    return {blocks.begin * at_once, team.rank + 1 == team.size ? columns : blocks.end * at_once};
  }

  // Rows of da [4H] at those of group g.
  Rows<T> da_rows(const Group<T>& group, const T* da) const {
    return {da + group.first_gate * H, kGates * H, group.all_rows ? nullptr : group.rows.data()};
  }

  // The mask of group g and sample b, where each sample has one, else null.
  const T* mask_of_sample(int64_t g, int64_t B, int64_t b) const {
    return mask.data && mask.per_sample ? static_cast<const T*>(mask.data) + (g * B + b) * columns : nullptr;
  }

  const T* W;
  InputMask mask;
  const KeptRows& rows;
  int64_t H, columns, width;
  std::vector<Group<T>> groups;
  std::vector<Buffer<T>> panels;  // of each group
};

}  // namespace rnndrop::cpu
