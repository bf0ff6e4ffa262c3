// A weight as the forward multiplies it: the rows that belong to some units, one thread's or all.
//
// The rows of all gates that share their columns are one list, gate after gate, and a panel takes the next of them
// whatever their gate: a narrow layer's four gates fill one panel. With few rows to multiply nothing is packed.
//
// Cost: one pass over the weight, or none.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/layer_schedule.h"
#include "cpu/layer_weights.h"
#include "cpu/packed_gemm.h"
#include "cpu/unpacked_gemm.h"

namespace rnndrop::cpu {

// Where the results of a product go in a row of the output: unit u of a gate to gate * gate_stride + u - first_unit.
struct GatesLayout {
  int64_t row_stride, gate_stride, first_unit;
  // Whether a panel's last lanes may be written past its own results: each gate's place is written before the next's.
  bool has_room;
};

template <class T>
class ForwardPanels {
 public:
  // storage: for each group of gates, storage_for() elements at least.
  ForwardPanels(const Weight<T>& weight, const std::vector<Buffer<T>>& storage, bool packed, const Range& units,
                int64_t rank, const GatesLayout& layout)
      : weight_(weight), packed_(packed), units_(units), layout_(layout) {
    for (int64_t g = 0; packed && g < int64_t(weight.groups.size()); ++g) {
      const Group<T>& group = weight.groups[g];
      rows_.push_back(weight.rows.rows_of_gates(group.first_gate, group.n_gates, units));
      // Whatever ranks before this one fill, their last panels included.
      const int64_t before = round_up(group.n_gates * units.begin, weight.width) + rank * weight.width;
      places_.emplace_back();
      for (const int64_t row : rows_.back()) places_.back().push_back(place_of(group.first_gate * weight.H + row));
      panels_.push_back(storage[g].data() + before * group.K());
    }
  }

  static int64_t storage_for(const Weight<T>& weight, const Group<T>& group, int64_t threads) {
    return (round_up(group.n_gates * weight.H, weight.width) + threads * weight.width) * group.K();
  }

  // Packs all, or a team member's share of it.
  void pack() const { pack(Team{0, 1}); }
  void pack(const Team& team) const {
    for (int64_t g = 0; g < int64_t(rows_.size()); ++g) {
      const Range mine = team.share(n_panels(g));
      for (int64_t panel = mine.begin; panel < mine.end; ++panel) pack_panel_of(g, panel);
    }
  }

  // out = W in^T for group g's gates, M rows of it. Backwards, W is read from its end, where it is in the cache if that
  // is where the product before this one ended.
  void multiply(int64_t g, T* out, const Rows<T>& in, int64_t M, bool backwards = false) const {
    if (!packed_) return multiply_unpacked(out, in, M, backwards);
    const int64_t K = weight_.groups[g].K(), width = weight_.width, n_of_group = n_panels(g);
    T tile[kRowBlock * kWidestPanel];
    for (int64_t k = 0; k < n_of_group; ++k) {
      const int64_t p = backwards ? n_of_group - 1 - k : k;
      const int64_t n = lanes_of(g, p);
      const int32_t* places = places_[g].data() + p * width;
      const bool adjacent = places[n - 1] - places[0] == n - 1;
      if (adjacent && (n == width || layout_.has_room)) {
        multiply_panel(out + places[0], layout_.row_stride, in, M, K, panel(g, p));
        continue;
      }
      for_each_block({0, M}, kRowBlock, [&](int64_t m, int64_t count) {
        multiply_panel(tile, width, Rows<T>{in.data + m * in.stride, in.stride, in.columns}, count, K, panel(g, p));
        for (int64_t r = 0; r < count; ++r) {
          T* row = out + (m + r) * layout_.row_stride;
          if (adjacent) {
            std::copy_n(tile + r * width, n, row + places[0]);
          } else {
            for (int64_t lane = 0; lane < n; ++lane) row[places[lane]] = tile[r * width + lane];
          }
        }
      });
    }
  }

 private:
  int64_t n_panels(int64_t g) const { return (int64_t(rows_[g].size()) + weight_.width - 1) / weight_.width; }
  int64_t lanes_of(int64_t g, int64_t p) const {
    return std::min<int64_t>(weight_.width, rows_[g].size() - p * weight_.width);
  }
  T* panel(int64_t g, int64_t p) const { return panels_[g] + p * weight_.width * weight_.groups[g].K(); }

  int64_t place_of(int64_t row) const {
    return row / weight_.H * layout_.gate_stride + row % weight_.H - layout_.first_unit;
  }

  void multiply_unpacked(T* out, const Rows<T>& in, int64_t M, bool backwards) const {
    constexpr int64_t kUnits = 32;
    const int64_t H = weight_.H, K = weight_.columns, of_gate = (units_.size() + kUnits - 1) / kUnits;
    for (int64_t k = 0; k < kGates * of_gate; ++k) {
      const int64_t piece = backwards ? kGates * of_gate - 1 - k : k, gate = piece / of_gate;
      const int64_t first = units_.begin + piece % of_gate * kUnits, n = std::min(kUnits, units_.end - first);
      multiply_by_columns(out + place_of(gate * H + first), layout_.row_stride, in.data, in.stride, M, K,
                          weight_.W + (gate * H + first) * K, K, n);
    }
  }

  void pack_panel_of(int64_t g, int64_t p) const {
    const Group<T>& group = weight_.groups[g];
    const int64_t K = group.K(), width = weight_.width, n = lanes_of(g, p);
    const T* rows[kWidestPanel];
    for (int64_t lane = 0; lane < n; ++lane) {
      rows[lane] = weight_.W + (group.first_gate * weight_.H + rows_[g][p * width + lane]) * weight_.columns;
    }
    if (group.scale.empty()) return pack_panel(panel(g, p), rows, n, K);
    // A few columns at a time are gathered in the first cache.
    constexpr int64_t kColumns = 64;
    T kept[kWidestPanel][kColumns];
    const T* kept_rows[kWidestPanel];
    for (int64_t k = 0; k < K; k += kColumns) {
      const int64_t columns = std::min(kColumns, K - k);
      for (int64_t lane = 0; lane < n; ++lane) {
        copy_kept(group, rows[lane], k, columns, kept[lane]);
        kept_rows[lane] = kept[lane];
      }
      pack_panel(panel(g, p) + k * width, kept_rows, n, columns);
    }
  }

  const Weight<T>& weight_;
  bool packed_;
  Range units_;
  GatesLayout layout_;
  std::vector<std::vector<int32_t>> rows_;    // of each group, counted from the first of its gates' rows
  std::vector<std::vector<int32_t>> places_;  // where each of these goes in a row of the output
  std::vector<T*> panels_;                    // of each group
};

}  // namespace rnndrop::cpu
