// A weight as the forward multiplies it: the rows that belong to some units, one thread's or all.
//
// The rows of all gates that share their columns are one list, gate after gate, and a panel takes the next of them
// whatever their gate: a narrow layer's four gates fill one panel. Or, where the cell takes the sums at once, unit
// after unit: i and f of a few units fill a panel, their g and o the next. With few rows to multiply nothing is packed.
//
// Cost: one pass over the weight, or none; a panel that is multiplied once is packed just before that, and not written
// to memory.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
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

enum class PanelOrder { gates, units };

// When panels are packed: before the sequence, for all products with them; each as it is multiplied, for that product;
// never, where the weight is multiplied where it lies; or once for many calls, before this one (packed_weights.h).
enum class Packing { before, as_multiplied, never, earlier };

template <class T>
struct PanelMemory {
  Packing packing;
  std::vector<Buffer<T>> before;  // of each group of gates: storage_for() elements at least
  const T* earlier = nullptr;     // of all rows, unit after unit
};

// Units of a gate that are multiplied together where the weight lies: so many, which a walk back finds in the second
// cache; or all of a weight that mostly comes from further away, so that more of it is fetched ahead.
inline int64_t units_unpacked(int64_t bytes) {
  return bytes < 12 * kSecondCache ? 64 : std::numeric_limits<int64_t>::max();
}

template <class S, class T = S>
class ForwardPanels {
 public:
  ForwardPanels(const Weight<S, T>& weight, const PanelMemory<T>& memory, const Range& units, int64_t rank,
                const GatesLayout& layout, PanelOrder order = PanelOrder::gates)
      : weight_(weight),
        packing_(memory.packing),
        order_(order),
        units_(units),
        layout_(layout),
        one_panel_(0),
        to_pack_it_(0) {
    if (packing_ == Packing::never) return;
    if (packing_ == Packing::earlier) {
      earlier_ = memory.earlier + kGates * units.begin * weight.groups[0].padded_K();
      return;
    }
    int64_t room = 0;
    for (int64_t g = 0; g < int64_t(weight.groups.size()); ++g) {
      const Group<T>& group = weight.groups[g];
      if (order == PanelOrder::units) {
        rows_.push_back(rows_unit_after_unit());
      } else {
        rows_.push_back(weight.rows.rows_of_gates(group.first_gate, group.n_gates, units));
        places_.push_back(places_of(group.first_gate, rows_.back()));
      }
      room = std::max(room, room_to_pack(g));
      if (packing_ == Packing::as_multiplied) continue;
      // Whatever ranks before this one fill, their last panels included.
      const int64_t before = round_up(group.n_gates * units.begin, weight.width) + rank * weight.width;
      panels_.push_back(memory.before[g].data() + before * group.padded_K());
    }
    if (packing_ == Packing::as_multiplied) {
      one_panel_ = Buffer<T>(padded<T>(weight.columns) * weight.width);
      to_pack_it_ = Buffer<T>(room);
    }
  }

  static int64_t storage_for(const Weight<S, T>& weight, const Group<T>& group, int64_t threads) {
    return (round_up(group.n_gates * weight.H, weight.width) + threads * weight.width) * group.padded_K();
  }

  // Packs a team member's share of what is packed before.
  void pack(const Team& team) const {
    for (int64_t g = 0; g < int64_t(panels_.size()); ++g) {
      const Range mine = team.share(n_panels(g));
      const Buffer<T> kept(room_to_pack(g));
      for (int64_t p = mine.begin; p < mine.end; ++p) pack_panel_of(g, p, panel(g, p), kept.data());
    }
  }

  // In the order of units, with all rows and one group: panel 2 * n has i and f of the n-th units_at_once() units, the
  // panel after it g and o.
  static int64_t units_at_once() { return panel_width<T>() / 2; }
  Product<T> product(int64_t p, const Rows<T>& in) const { return {in, weight_.groups[0].K(), packed_panel(0, p)}; }

  // b_ih + b_hh in that order.
  static Buffer<acc_type<T>> bias_unit_after_unit(const LayerForward& layer, const Range& units) {
    using Acc = acc_type<T>;
    const int64_t at_once = units_at_once(), H = layer.H;
    Buffer<Acc> bias(kGates * round_up(units.size(), at_once));
    Acc* out = bias.data();
    Acc addends[kWidestPanel];
    const auto load = [&](Acc* to, const void* b, int64_t first, int64_t n) {
      if (b) {
        convert(to, static_cast<const S*>(b) + first, n);
      } else {
        std::fill_n(to, n, Acc(0));
      }
    };
    for (int64_t first = units.begin; first < units.end; first += at_once) {
      const int64_t n = std::min(at_once, units.end - first);
      for (int64_t gate = 0; gate < kGates; ++gate, out += at_once) {
        load(out, layer.b_ih, gate * H + first, n);
        load(addends, layer.b_hh, gate * H + first, n);
        for (int64_t i = 0; i < n; ++i) out[i] += addends[i];
        std::fill_n(out + n, at_once - n, out[n - 1]);
      }
    }
    return bias;
  }

  // out = W in^T for group g's gates, M rows of it.
  void multiply(int64_t g, acc_type<T>* out, const Rows<T>& in, int64_t M, Walk walk) const {
    if (packing_ == Packing::never) return multiply_unpacked(out, in, M, walk);
    if (order_ == PanelOrder::units) return multiply_unit_after_unit(out, in, M, walk);
    const int64_t K = weight_.groups[g].K(), width = weight_.width;
    acc_type<T> tile[kMostRowBlock * kWidestPanel];
    walk.for_each(n_panels(g), [&](int64_t p) {
      const int64_t n = lanes_of(g, p);
      const int32_t* places = places_[g].data() + p * width;
      const bool adjacent = places[n - 1] - places[0] == n - 1;
      const T* packed = packed_panel(g, p);
      if (adjacent && (n == columns_multiplied<T>(n) || layout_.has_room)) {
        return multiply_panel(out + places[0], layout_.row_stride, in, M, K, packed, n);
      }
      for_each_block({0, M}, kMostRowBlock, [&](int64_t m, int64_t count) {
        multiply_panel(tile, width, Rows<T>{in.data + m * in.stride, in.stride, in.columns}, count, K, packed, n);
        for (int64_t r = 0; r < count; ++r) {
          acc_type<T>* row = out + (m + r) * layout_.row_stride;
          if (adjacent) {
            std::copy_n(tile + r * width, n, row + places[0]);
          } else {
            for (int64_t lane = 0; lane < n; ++lane) row[places[lane]] = tile[r * width + lane];
          }
        }
      });
    });
  }

 private:
  int64_t n_panels(int64_t g) const { return (int64_t(rows_[g].size()) + weight_.width - 1) / weight_.width; }
  int64_t lanes_of(int64_t g, int64_t p) const {
    return std::min<int64_t>(weight_.width, rows_[g].size() - p * weight_.width);
  }
  const T* packed_panel(int64_t g, int64_t p) const {
    if (packing_ == Packing::before) return panel(g, p);
    if (packing_ == Packing::earlier) return earlier_ + p * weight_.width * weight_.groups[0].padded_K();
    pack_panel_of(g, p, one_panel_.data(), to_pack_it_.data());
    return one_panel_.data();
  }
  T* panel(int64_t g, int64_t p) const { return panels_[g] + p * weight_.width * weight_.groups[g].padded_K(); }

  // Lanes past the last unit repeat it.
  std::vector<int32_t> rows_unit_after_unit() const {
    const int64_t at_once = units_at_once();
    std::vector<int32_t> rows(kGates * round_up(units_.size(), at_once));
    int32_t* out = rows.data();
    for (int64_t first = units_.begin; first < units_.end; first += at_once) {
      for (int64_t gate = 0; gate < kGates; ++gate) {
        for (int64_t unit = first; unit < first + at_once; ++unit) {
          *out++ = gate * weight_.H + std::min(unit, units_.end - 1);
        }
      }
    }
    return rows;
  }

  // Of rows in order, counted from the first of some gates'.
  std::vector<int32_t> places_of(int64_t first_gate, const std::vector<int32_t>& rows) const {
    std::vector<int32_t> places(rows.size());
    int64_t gate = 0;
    for (size_t i = 0; i < rows.size(); ++i) {
      while (rows[i] >= (gate + 1) * weight_.H) ++gate;
      places[i] = (first_gate + gate) * layout_.gate_stride + rows[i] - gate * weight_.H - layout_.first_unit;
    }
    return places;
  }

  void multiply_unpacked(acc_type<T>* out, const Rows<T>& in, int64_t M, Walk walk) const {
    const int64_t H = weight_.H, K = weight_.columns;
    const int64_t at_once = std::clamp<int64_t>(units_.size(), 1, units_unpacked(weight_.n_rows * K * sizeof(S)));
    const int64_t pieces = (units_.size() + at_once - 1) / at_once;
    walk.for_each(weight_.n_rows / H * pieces, [&](int64_t i) {
      const int64_t gate = i / pieces, first = units_.begin + i % pieces * at_once, row = gate * H + first;
      const int64_t place = gate * layout_.gate_stride + first - layout_.first_unit;
      multiply_by_columns(out + place, layout_.row_stride, in.data, in.stride, M, K, weight_.W + row * K, K,
                          std::min(at_once, units_.end - first));
    });
  }

  void multiply_unit_after_unit(acc_type<T>* out, const Rows<T>& in, int64_t M, Walk walk) const {
    const int64_t at_once = units_at_once(), blocks = (units_.size() + at_once - 1) / at_once;
    const acc_type<T>* const from_zero = nullptr;
    acc_type<T> tile[kMostRowBlock * kWidestPanel];
    walk.for_each(2 * blocks, [&](int64_t p) {
      const int64_t first = p / 2 * at_once, n = std::min(at_once, units_.size() - first), gate = p % 2 * 2;
      acc_type<T>* place = out + gate * layout_.gate_stride + units_.begin + first - layout_.first_unit;
      const Product<T> all = product(p, in), none{in, 0, nullptr};
      if (n == at_once) {
        return multiply_panel_halves(place, layout_.row_stride, layout_.gate_stride, from_zero, all, none, M);
      }
      for_each_block({0, M}, kMostRowBlock, [&](int64_t m, int64_t count) {
        multiply_panel(tile, 2 * at_once, Rows<T>{in.data + m * in.stride, in.stride, in.columns}, count, all.K,
                       all.panel, 2 * at_once);
        for (int64_t i = 0; i < 2 * count; ++i) {
          std::copy_n(tile + i * at_once, n, place + (m + i / 2) * layout_.row_stride + i % 2 * layout_.gate_stride);
        }
      });
    });
  }

  // Elements of a buffer for packing a panel.
  int64_t room_to_pack(int64_t g) const { return weight_.room_of_packed_row(weight_.groups[g]) * weight_.width; }

  void pack_panel_of(int64_t g, int64_t p, T* out, T* kept) const {
    const Group<T>& group = weight_.groups[g];
    if (!std::is_same_v<S, T> && !group.mask) return pack_widened_panel(g, p, out, kept);
    const int64_t n = lanes_of(g, p), room = weight_.room_of_packed_row(group);
    const T* rows[kWidestPanel];
    for (int64_t lane = 0; lane < n; ++lane) {
      rows[lane] = weight_.packed_row(group, rows_[g][p * weight_.width + lane], kept + lane * room);
    }
    pack_panel(out, rows, n, group.K());
  }

  // Some columns at a time, which stay in the first cache until they are packed; short rows that follow one another as
  // one.
  void pack_widened_panel(int64_t g, int64_t p, T* out, T* widened) const {
    constexpr int64_t kColumns = 128;
    const int64_t n = lanes_of(g, p), K = weight_.columns;
    const int32_t* of_panel = rows_[g].data() + p * weight_.width;
    const S* W = weight_.W + weight_.groups[g].first_gate * weight_.H * K;
    const T* rows[kWidestPanel];
    for (int64_t first = 0; first < K; first += kColumns) {
      const int64_t columns = std::min(kColumns, K - first);
      for (int64_t lane = 0, run; lane < n; lane += run) {
        run = 1;
        while (columns == K && lane + run < n && of_panel[lane + run] == of_panel[lane] + run) ++run;
        convert(widened + lane * columns, W + of_panel[lane] * K + first, run * columns);
      }
      for (int64_t lane = 0; lane < n; ++lane) rows[lane] = widened + lane * columns;
      pack_panel(out + first * weight_.width, rows, n, columns);
    }
  }

  const Weight<S, T>& weight_;
  Packing packing_;
  PanelOrder order_;
  Range units_;
  GatesLayout layout_;
  Buffer<T> one_panel_, to_pack_it_;          // as it is multiplied, and room for that
  std::vector<std::vector<int32_t>> rows_;    // of each group, counted from the first of its gates' rows
  std::vector<std::vector<int32_t>> places_;  // where each of these goes in a row of the output
  std::vector<T*> panels_;                    // of each group, packed before
  const T* earlier_ = nullptr;                // of the first of these units on, packed by an earlier call
};

}  // namespace rnndrop::cpu
