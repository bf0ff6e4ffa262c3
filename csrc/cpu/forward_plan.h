// What the forward decides before it runs a layer: which rows and columns of the weights are multiplied, when each
// weight is packed, what a product takes along, and how threads share out the work.
//
// Every choice is between ways that give the same results up to rounding; the sizes that it is made by are measured
// ones (layer_schedule.h).
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "cpu/amx_gemm.h"
#include "cpu/compute_type.h"
#include "cpu/forward_panels.h"
#include "cpu/layer_engine.h"
#include "cpu/layer_schedule.h"
#include "cpu/layer_weights.h"
#include "cpu/packed_gemm.h"
#include "cpu/threads.h"
#include "cpu/widened_steps.h"

namespace rnndrop::cpu {

// S is stored, T multiplied.
template <class S, class T>
struct ForwardPlan {
  ForwardPlan(const LayerForward& layer, const PackedWeights& packed)
      : layer(layer),
        is_packed(packed.W_hh),
        row_block(cpu::row_block<T>(layer)),
        most_rows(most_rows_of_walk(row_block)),
        // Threads that share out the units could not also skip some of them.
        rows(layer.H, splits_rows(most_threads()) ? shared_mask_g<S>(layer) : nullptr),
        mask_x(layer.mask_x, layer.B, layer.I, forms_masked_rows(layer.mask_x, layer.I, layer.T * layer.B)),
        mask_h(layer.mask_h, layer.B, layer.P, forms_masked_rows(layer.mask_h, layer.P, layer.B)),
        x_factor(mask_x.mask, layer.B, layer.I),
        h_factor(mask_h.mask, layer.B, layer.P),
        x_weight(layer.W_ih, x_factor.mask, rows, layer.I),
        h_weight(layer.W_hh, h_factor.mask, rows, layer.P),
        masks_x_rows(mask_x.mask.data && mask_x.mask.per_sample),
        masks_h_rows(mask_h.mask.data && mask_h.mask.per_sample),
        // Forward in time y is h wherever a step still runs; backwards h_0 is carried to each sample's own end.
        keeps_h_tilde(masks_h_rows || (layer.lengths && layer.order.reverse)),
        n_h_tilde(mask_h.mask.inputs_of_sample()),
        h_packing(packed.W_hh ? Packing::earlier
                              : packing_of(h_weight, layer.B, true, layer.T == 1 && layer.B <= most_rows)),
        by_units(packed.W_hh || (rows.all() && h_weight.groups.size() == 1 && h_packing == Packing::before)),
        takes_x_along(by_units && may_take_x_along()),
        x_packing(packed.W_ih ? Packing::earlier : packing_of_x()),
        x_order(takes_x_along || packed.W_ih ? PanelOrder::units : PanelOrder::gates),
        h_order(by_units ? PanelOrder::units : PanelOrder::gates),
        // Without gates to save, it is what lengths carry that is better converted once.
        widens_steps((layer.gates || layer.lengths) && by_units && !keeps_h_tilde && cpu::widens_steps<S, T>(layer)),
        widens_h_n(widens_steps && layer.h_n && !layer.W_hr),
        // Gates that nobody saves are better not written at all.
        has_gates_of_chunk(takes_x_along ? widens_steps && layer.gates : is_16_bits<S> || !layer.gates) {}
  ForwardPlan(const ForwardPlan&) = delete;  // the weights point to the rows
  ForwardPlan& operator=(const ForwardPlan&) = delete;

  // Whether n threads share out the batch, else the units.
  bool splits_batch(int64_t n) const { return !rows.all() || (splits_rows(n) && !reads_too_much_each(n)); }

  // Whether n threads share out the steps of the product with x, since there are too few rows of the batch for all.
  bool shares_steps_of_x(int64_t n) const {
    const bool enough = layer.T * layer.B * kGates * layer.H * layer.I > kEnoughForSeveral;
    return !takes_x_along && enough && layer.B < n && splits_batch(n);
  }

  bool packs_projection() const { return !could_read_unpacked(layer.H, layer.B); }

  // [n_h_tilde,B,P], or null where the weight has the mask.
  const S* mask_of_rows_of_h() const { return masks_h_rows ? static_cast<const S*>(mask_h.mask.data) : nullptr; }

  // Whether what W_ih brings to a step's gates is overwritten with them: where they are saved in its type.
  bool becomes_gates() const { return layer.gates && (!is_16_bits<S> || widens_steps); }

  const LayerForward& layer;
  const bool is_packed;                // by an earlier call
  const int64_t row_block, most_rows;  // of the batch, that a step takes at once
  const KeptRows rows;
  const SpreadMask<S> mask_x, mask_h;
  const FactorMask<S, T> x_factor, h_factor;
  const Weight<S, T> x_weight, h_weight;
  const bool masks_x_rows, masks_h_rows;  // x~ and h~ are formed, not the weights masked
  const bool keeps_h_tilde;               // as rows of their own beside y
  const int64_t n_h_tilde;
  const Packing h_packing;
  const bool by_units;       // the cell takes the sums of a few rows and units at once
  const bool takes_x_along;  // and W_ih x~ is among these sums, not a product of its own
  const Packing x_packing;
  const PanelOrder x_order, h_order;
  const bool widens_steps, widens_h_n;
  const bool has_gates_of_chunk;  // in memory of the forward's own

 private:
  bool splits_rows(int64_t n) const {
    return cpu::splits_rows<T>(layer, layer.I + layer.P, n, ForwardPanels<S, T>::units_at_once());
  }

  // Whether threads that share out the batch would each read all of a large W_hh for little: in a single step, or for
  // so few rows that the product waits for it. A kernel that takes six rows at once is not faster than the memory for
  // more than eight, and packs a weight for all threads sooner than each would its own.
  bool reads_too_much_each(int64_t n) const {
    constexpr int64_t kRows = 8;
    const bool takes_few = rows_at_once<T>() < kRows;
    const bool for_little = layer.T == 1 ? is_packed || !takes_few : layer.B <= n * (takes_few ? 1 : 4) * kRows;
    return n > 1 && has_large_W_hh<T>(layer) && for_little;
  }

  bool could_read_unpacked(int64_t columns, int64_t rows_at_once) const {
    return too_few_to_pack_forward<T>(layer.T * layer.B, rows_at_once, columns) && columns >= least_unpacked_K<T>() &&
           Weight<S, T>::can_read_unpacked();
  }
  bool reads_unpacked(const Weight<S, T>& weight, int64_t rows_at_once) const {
    return could_read_unpacked(weight.columns, rows_at_once) && weight.is_whole();
  }

  // Whether x~ or h~ is formed for a mask that the batch shares, so that its weight can be read where it lies.
  bool forms_masked_rows(const InputMask& mask, int64_t columns, int64_t rows_at_once) const {
    return rows.all() && could_read_unpacked(columns, rows_at_once) &&
           too_little_to_leave_out<S>(mask, columns, layer.T * layer.B);
  }

  // Whether the product of a step and its units takes x too.
  bool may_take_x_along() const {
    if (is_packed) return layer.T == 1 || is_narrow(x_weight);
    return x_weight.groups.size() == 1 && !reads_unpacked(x_weight, layer.T * layer.B) && !masks_x_rows &&
           is_narrow(x_weight);
  }

  // Whether a product of its own with x would cost more, for the gates that it leaves in memory, than to read W_ih
  // once a step and to multiply as many units as fill its panels: on AMX, where to multiply costs least.
  bool is_narrow(const Weight<S, T>& weight) const {
    constexpr int64_t kMostRows = 32;
    const int64_t pays = amx::multiplies<T>() ? 16 * std::min(layer.B, row_block) : 2 * std::min(layer.B, kMostRows);
    return weight.groups[0].K() * round_up(layer.H, ForwardPanels<S, T>::units_at_once()) <= pays * layer.H;
  }

  // Whether each thread multiplies all of the batch: where they share it, each would pack all of a weight by itself.
  bool takes_whole_batch() const { return most_threads() == 1 || !splits_batch(most_threads()); }
  // Whether x's rows of a chunk lie together, so that one product takes all of them.
  bool multiplies_steps_together() const { return layer.T == 1 || (takes_whole_batch() && !layer.lengths); }

  // n_rows: that are multiplied in one product, where they are together. once: in that product alone. A weight that is
  // widened takes as long to pack as three times as many rows take where it lies.
  Packing packing_of(const Weight<S, T>& weight, int64_t n_rows, bool together, bool once) const {
    const bool whole_batch = takes_whole_batch();
    const int64_t of_thread = whole_batch ? n_rows : n_rows / most_threads();
    const bool pays = together && of_thread >= least_rows_packed<T>();
    if (reads_unpacked(weight, n_rows)) {
      const bool enough = std::is_same_v<S, T> || of_thread / 2 >= least_rows_packed<T>();
      return pays && enough ? Packing::as_multiplied : Packing::never;
    }
    return pays && once && whole_batch ? Packing::as_multiplied : Packing::before;
  }
  Packing packing_of_x() const {
    if (takes_x_along) return Packing::before;
    const bool once = steps_per_chunk(layer, layer.B) == layer.T;
    return packing_of(x_weight, layer.T * layer.B, multiplies_steps_together(), once);
  }
};

}  // namespace rnndrop::cpu
