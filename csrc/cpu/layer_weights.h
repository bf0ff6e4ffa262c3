// The engine's weights: which rows and columns of W_ih and W_hh are multiplied.
//
// What a mask drops for the whole batch and sequence is neither packed nor multiplied: columns of x and h, and the rows
// of i and g of units without a candidate. At p = 0.5 the columns are half of the arithmetic, the rows a quarter.
//
// Cost: one pass over each weight a call, for the panels; none where the weight is read where it lies, as for few rows.
// These multiply x~ and h~, which are formed, and dropped columns too.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include "cpu/buffer.h"
#include "cpu/compact_rows.h"
#include "cpu/compute_type.h"
#include "cpu/kept_columns.h"
#include "cpu/layer_schedule.h"
#include "cpu/packed_gemm.h"
#include "cpu/threads.h"
#include "cpu/unpacked_gemm.h"
#include "cpu/widening_gemm.h"
#include "params.h"

namespace rnndrop::cpu {

// Units of which a gate is computed.
struct Units {
  std::vector<int32_t> kept;
  bool all;
  int64_t size() const { return kept.size(); }
};

// Those of n elements that are not 0, or all where there is no mask.
template <class T>
std::vector<int32_t> indices(int64_t n, const T* mask) {
  std::vector<int32_t> kept(n);
  if (!mask) {
    std::iota(kept.begin(), kept.end(), 0);
    return kept;
  }
  int64_t n_kept = 0;
  for (int64_t k = 0; k < n; ++k) {  // no branch, which would be mispredicted for every other element
    kept[n_kept] = k;
    n_kept += mask[k] != 0;
  }
  kept.resize(n_kept);
  return kept;
}

// Rows of the weights that are multiplied. Where a mask_g that all steps and samples share drops a unit, i * (m_g * g)
// is 0 whatever i and g are, and so are both their gradients.
class KeptRows {
 public:
  template <class T>
  KeptRows(int64_t H, const T* mask_g) : H(H) {
    every_unit_.kept = indices(H, static_cast<const T*>(nullptr));
    with_candidate_.kept = indices(H, mask_g);
    every_unit_.all = true;
    with_candidate_.all = with_candidate_.size() == H;
  }

  // All of a weight that has as many rows a gate.
  explicit KeptRows(int64_t n) : KeptRows(n, static_cast<const float*>(nullptr)) {}

  bool all() const { return with_candidate_.all; }
  const Units& units(int64_t gate) const {
    return gate == kInput || gate == kCandidate ? with_candidate_ : every_unit_;
  }
  // Of n gates from `first` on, counted from the first of these gates' rows.
  std::vector<int32_t> rows_of_gates(int64_t first, int64_t n) const { return rows_of_gates(first, n, {0, H}); }
  std::vector<int32_t> rows_of_gates(int64_t first, int64_t n, const Range& of_units) const {
    // No branch and no push_back: for one step of a small layer they took a third as long as the step.
    std::vector<int32_t> rows(n * of_units.size() + 1);
    int64_t n_rows = 0;
    for (int64_t gate = 0; gate < n; ++gate) {
      const Units& of_gate = units(first + gate);
      if (of_gate.all) {
        std::iota(rows.begin() + n_rows, rows.begin() + n_rows + of_units.size(), gate * H + of_units.begin);
        n_rows += of_units.size();
        continue;
      }
      for (const int32_t unit : of_gate.kept) {
        rows[n_rows] = gate * H + unit;
        n_rows += of_units.begin <= unit && unit < of_units.end;
      }
    }
    rows.resize(n_rows);
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
  const T* mask;              // of every column, where the batch shares it; else null, and all are kept
  KeptColumns<T> places;      // of these columns, where there is such a mask
  bool all;                   // every column is kept
  std::vector<int32_t> rows;  // of these gates, that are multiplied
  bool all_rows;
  CompactRows<T> inputs, gradients;  // x or h at these columns, da at these rows
  int64_t K() const { return kept.size(); }
  int64_t M() const { return rows.size(); }
  // Of the kept columns, how many are in a block of `width`, which the last may not fill.
  int64_t columns_in(int64_t block, int64_t width) const { return std::min(width, K() - block * width); }
  int64_t padded_K() const { return padded<T>(K()); }
  int64_t padded_M() const { return padded<T>(M()); }
  const int32_t* columns() const { return all ? nullptr : kept.data(); }
  // Elements that a row of kept columns has to have room for.
  int64_t room() const { return mask ? places.room() : 0; }
};

template <class T>
std::vector<Group<T>> groups_of(const InputMask& mask, int64_t K, const KeptRows& rows, int64_t gates) {
  const int64_t n = mask.data && mask.per_gate ? gates : 1;
  std::vector<Group<T>> groups;
  for (int64_t g = 0; g < n; ++g) {
    const T* shared = mask.data && !mask.per_sample ? static_cast<const T*>(mask.data) + g * K : nullptr;
    Group<T> group{g,  gates / n, indices(K, shared), shared, {}, true, rows.rows_of_gates(g, gates / n), rows.all(),
                   {}, {}};
    group.all = group.K() == K;
    if (shared) group.places = KeptColumns<T>(K, group.kept);
    group.inputs = CompactRows<T>(K, group.kept);
    group.gradients = CompactRows<T>(gates / n * rows.H, group.rows);
    groups.push_back(std::move(group));
  }
  return groups;
}

// A mask that the batch shares, a copy for each sample where that is wanted.
template <class T>
struct SpreadMask {
  SpreadMask(const InputMask& shared, int64_t B, int64_t columns, bool wanted)
      : is_spread(wanted), copies(wanted ? B * columns : 0), mask(shared) {
    if (!wanted) return;
    const T* values = static_cast<const T*>(shared.data);
    for (int64_t b = 0; b < B; ++b) std::copy_n(values, columns, copies.data() + b * columns);
    mask.data = copies.data();
    mask.per_sample = true;
  }
  bool is_spread;
  Buffer<T> copies;
  InputMask mask;
};

// A mask on S as products of T take it.
template <class S, class T>
struct FactorMask {
  FactorMask(const InputMask& of_call, int64_t B, int64_t columns) : copies(0), mask(of_call) {
    if (std::is_same_v<S, T> || !mask.data) return;
    const int64_t n = (mask.per_gate ? kGates : 1) * (mask.per_sample ? B : 1) * columns;
    copies = Buffer<T>(n);
    convert(copies.data(), static_cast<const S*>(mask.data), n);
    mask.data = copies.data();
  }
  Buffer<T> copies;
  InputMask mask;
};

// Whether a mask leaves out so little of so few rows that packing what it keeps would cost more.
template <class T>
bool too_little_to_leave_out(const InputMask& mask, int64_t columns, int64_t rows) {
  if (!mask.data || mask.per_sample || mask.per_gate) return false;
  const T* values = static_cast<const T*>(mask.data);
  return rows * std::count(values, values + columns, T(0)) <= kTooFewToLeaveOut * columns;
}

// n <= kTogether<T> rows, row_of(i), whose K elements go to a row of each of as many panels as they need, `stride`
// elements apart.
template <class T, class RowOf>
void put_in_panels(int64_t n, const RowOf& row_of, int64_t K, int64_t width, T* panel, int64_t stride) {
  decltype(row_of(0)) rows[kTogether<T>] = {};
  for (int64_t i = 0; i < n; ++i) rows[i] = row_of(i);
  for (int64_t first = 0; first < K; first += width, panel += stride) {
    const int64_t columns = std::min(width, K - first);
    if constexpr (is_16_bits<T>) {
      pack_pair(panel, rows[0] + first, rows[1] ? rows[1] + first : nullptr, columns);
    } else {
      convert(panel, rows[0] + first, columns);
      std::fill_n(panel + columns, width - columns, T(0));
    }
  }
}

// After the last of `rows` rows, which were `mine` in part: zeros behind them, in each of `n` panels.
template <class T>
void end_panels(const Range& mine, int64_t rows, int64_t n, int64_t width, T* panels) {
  if constexpr (is_16_bits<T>) {
    if (mine.size() == 0 || mine.end != rows) return;
    for (int64_t i = 0; i < n; ++i) end_panel(panels + i * padded<T>(rows) * width, rows);
  }
}

// W_ih or W_hh [4H, columns] of S with its mask, multiplied as T; packed for the backward here, for the forward in
// forward_panels.h. A projection's W_hr is the weight of a single gate, of P units (projection.h).
template <class S, class T = S>
struct Weight {
  Weight(const void* W, const InputMask& mask, const KeptRows& rows, int64_t columns, int64_t gates = kGates)
      : W(static_cast<const S*>(W)),
        mask(mask),
        rows(rows),
        H(rows.H),
        n_rows(gates * rows.H),
        columns(columns),
        width(panel_width<T>()),
        groups(groups_of<T>(mask, columns, rows, gates)) {}

  // Elements of a buffer for copies of so many rows of x or h, or of da.
  int64_t room_for_inputs(int64_t rows) const {
    int64_t room = 0;
    for (const Group<T>& group : groups) room = std::max(room, group.inputs.template room<S>(rows));
    return room;
  }
  int64_t room_for_gradients(int64_t rows) const {
    int64_t room = 0;
    for (const Group<T>& group : groups) room = std::max(room, group.gradients.template room<T>(rows));
    return room;
  }

  int64_t column_blocks(const Group<T>& group) const { return (group.K() + width - 1) / width; }
  // Of rows that products with all of these blocks are put in.
  int64_t stride_of_sums(const Group<T>& group) const { return odd_lines<acc_type<T>>(column_blocks(group) * width); }

  // For da W: a panel holds `width` kept columns of the group's kept rows, [M, width].
  void allocate_backward() {
    for (const Group<T>& group : groups) panels.emplace_back(column_blocks(group) * group.padded_M() * width);
  }
  T* backward_panel(int64_t g, int64_t block) const { return panels[g].data() + block * groups[g].padded_M() * width; }
  void pack_backward(const Team& team) const {
    for (int64_t g = 0; g < int64_t(groups.size()); ++g) {
      const Group<T>& group = groups[g];
      const Range mine = team.share(group.M(), kTogether<T>);
      const Buffer<T> kept(kTogether<T> * room_of_packed_row(group));
      for_each_block(mine, kTogether<T>, [&](int64_t r, int64_t n) {
        const auto put = [&](const auto& row) {
          put_in_panels(n, row, group.K(), width, panels[g].data() + r * width, group.padded_M() * width);
        };
        if (!group.mask) return put([&](int64_t i) { return row_of(group, group.rows[r + i]); });
        put([&](int64_t i) {
          return packed_row(group, group.rows[r + i], kept.data() + i * room_of_packed_row(group));
        });
      });
      end_panels(mine, group.M(), column_blocks(group), width, panels[g].data());
    }
  }

  // What is packed of a row of the group's gates: its kept columns, scaled as the mask says. In the buffer, unless that
  // is the row as it lies.
  const T* packed_row(const Group<T>& group, int64_t r, T* buffer) const {
    const S* of_weight = row_of(group, r);
    const T* row;
    if constexpr (std::is_same_v<S, T>) {
      row = of_weight;
    } else {
      T* widened = buffer + group.room();
      convert(widened, of_weight, columns);
      row = widened;
    }
    if (!group.mask) return row;
    group.places.gather(row, columns, 1, group.mask, buffer, 0);
    return buffer;
  }
  const S* row_of(const Group<T>& group, int64_t r) const { return W + (group.first_gate * H + r) * columns; }
  int64_t room_of_packed_row(const Group<T>& group) const {
    return group.room() + (std::is_same_v<S, T> ? 0 : columns);
  }

  // Whether all of it is multiplied as it is, so that it can be read where it lies.
  bool is_whole() const { return groups.size() == 1 && is_whole_of_each_group(); }
  bool is_whole_of_each_group() const {
    return std::all_of(groups.begin(), groups.end(),
                       [](const Group<T>& group) { return group.all && group.all_rows && !group.mask; });
  }
  // out[M, columns of the range] = da W, W where it lies. The range has unpacked_columns() columns or more.
  void multiply_by_rows(const T* da, int64_t M, const Range& range, acc_type<T>* out) const {
    const int64_t at_once = unpacked_columns<T>(), whole = range.size() / at_once * at_once;
    const auto multiply = [&](int64_t first, int64_t n) {
      cpu::multiply_by_rows(out + first, columns, da, n_rows, M, n_rows, W + first, columns, n);
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

  // Whether it can be multiplied with few rows where it lies.
  static bool can_read_unpacked() { return std::is_same_v<S, T> || has_widening_gemm(); }

  // Rows of da [n_rows] at those of group g.
  Rows<T> da_rows(const Group<T>& group, const T* da) const {
    return {da + group.first_gate * H, n_rows, group.all_rows ? nullptr : group.rows.data()};
  }

  // The mask of group g and sample b, where each sample has one, else null.
  const T* mask_of_sample(int64_t g, int64_t B, int64_t b) const {
    return mask.data && mask.per_sample ? static_cast<const T*>(mask.data) + (g * B + b) * columns : nullptr;
  }

  const S* W;
  InputMask mask;
  const KeptRows& rows;
  int64_t H, n_rows, columns, width;
  std::vector<Group<T>> groups;
  std::vector<Buffer<T>> panels;  // of each group
};

}  // namespace rnndrop::cpu
