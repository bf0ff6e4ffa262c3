// The engine's forward: W_ih x~ for a few steps at once, then step by step W_hh h~ and the cell.
//
// Each thread owns a slice of the batch through all steps and never waits for another; where the batch is too small
// for that, it owns a slice of the units instead, for all of the batch, and there is a barrier a step. W_hh is read
// from the cache once for each block of rows.
//
// Cost: 2 * T * B * 4H * (I + H) flops, times the share kept; beside them one pass over the gates a step
// (step_kernels.cpp).
#include <algorithm>
#include <vector>

#include "cpu/forward_panels.h"
#include "cpu/layer_engine.h"
#include "cpu/layer_schedule.h"
#include "cpu/layer_weights.h"
#include "cpu/packed_gemm.h"
#include "cpu/step_kernels.h"
#include "cpu/threads.h"

namespace rnndrop::cpu {
namespace {

template <class T>
class Forward {
 public:
  explicit Forward(const LayerForward& layer)
      : layer_(layer),
        // Threads that share out the units could not also skip some of them.
        rows_(layer, splits_rows(layer, at::get_num_threads()) ? shared_mask_g<T>(layer) : nullptr),
        x_weight_(layer.W_ih, layer.mask_x, rows_, layer.I),
        h_weight_(layer.W_hh, layer.mask_h, rows_, layer.H),
        masks_h_rows_(layer.mask_h.data && layer.mask_h.per_sample),
        // Forward in time y is h wherever a step still runs; backwards h_0 is carried to each sample's own end.
        keeps_h_tilde_(masks_h_rows_ || (layer.lengths && layer.order.reverse)),
        n_h_tilde_(layer.mask_h.inputs_of_sample()),
        h_tilde_(keeps_h_tilde_ ? 2 * n_h_tilde_ * layer.B * layer.H : 0),
        gates_of_chunk_(layer.gates ? 0 : steps_per_chunk(layer, layer.B) * layer.B * kGates * layer.H) {
    allocate(x_weight_, x_panels_);
    allocate(h_weight_, h_panels_);
  }

  void run() {
    with_team(enough_for_several(layer_), [&](const Team& team) {
      const bool rows_split = !rows_.all() || splits_rows(layer_, team.size);
      // Whole vectors of units, so that no two threads write to one cache line.
      const Range units = rows_split ? Range{0, layer_.H} : team.share(layer_.H, h_weight_.width / 2);
      const int64_t rank = rows_split ? 0 : team.rank;
      const GatesLayout from_h = from_h_layout(units);
      const ForwardPanels<T> x_panels(x_weight_, x_panels_, packs(x_weight_), units, rank,
                                      {kGates * layer_.H, layer_.H, 0, false});
      const ForwardPanels<T> h_panels(h_weight_, h_panels_, packs(h_weight_), units, rank, from_h);
      const Team packers = rows_split ? team : Team{0, 1};
      x_panels.pack(packers);
      h_panels.pack(packers);
      if (keeps_h_tilde_) mask_h_0(team.share(layer_.B));
      team.barrier();
      run_member(team, rows_split, units, x_panels, h_panels, from_h);
    });
  }

 private:
  bool packs(const Weight<T>& weight) const {
    return !(too_few_to_pack_forward(layer_, weight.columns) && weight.is_whole() &&
             weight.columns >= least_unpacked_K<T>());
  }
  void allocate(const Weight<T>& weight, std::vector<Buffer<T>>& panels) const {
    if (!packs(weight)) return;
    for (const Group<T>& group : weight.groups) {
      panels.emplace_back(ForwardPanels<T>::storage_for(weight, group, at::get_num_threads()));
    }
  }

  // With room for a whole panel past the last gate.
  GatesLayout from_h_layout(const Range& units) const {
    const int64_t width = h_weight_.width;
    return {round_up(kGates * units.size(), width) + width, units.size(), units.begin, rows_.all()};
  }

  void run_member(const Team& team, bool rows_split, const Range& units, const ForwardPanels<T>& x_panels,
                  const ForwardPanels<T>& h_panels, const GatesLayout& from_h_layout) {
    const Range rows = rows_split ? team.share(layer_.B) : Range{0, layer_.B};
    const Buffer<T> from_h(kRowBlock * from_h_layout.row_stride);
    if (!rows_.all()) std::fill_n(from_h.data(), kRowBlock * from_h_layout.row_stride, T(0));
    // Without saved gates all threads write to one buffer, so that its chunks have to be the same for all.
    const int64_t steps = steps_per_chunk(layer_, layer_.gates ? rows.size() : layer_.B);
    const Buffer<T> x_tilde(layer_.mask_x.data && layer_.mask_x.per_sample ? steps * rows.size() * layer_.I : 0);

    bool backwards = false;  // W_hh is read to and fro: what no cache holds of it is less than all
    for_each_chunk(layer_.order, steps, [&](int64_t begin, int64_t n) {
      T* gates =
          layer_.gates ? static_cast<T*>(layer_.gates) + begin * layer_.B * kGates * layer_.H : gates_of_chunk_.data();
      project_input(begin, n, rows, x_panels, gates, x_tilde.data());
      for_each_step(layer_.order, begin, n, [&](int64_t t) {
        const StepForward step = step_at(t, gates + (t - begin) * layer_.B * kGates * layer_.H);
        const T* h_in = h_in_at(t);
        for_each_block(rows, kRowBlock, [&](int64_t b, int64_t M) {
          multiply_h(h_in, b, M, h_panels, from_h.data(), backwards);
          backwards = !backwards;
          step_forward(step, {b, b + M, units.begin, units.end},
                       {from_h.data(), from_h_layout.row_stride, from_h_layout.gate_stride});
        });
        if (!rows_split) team.barrier();
      });
    });
  }

  // gates [n,B,4H] = W_ih x~ for steps [begin, begin + n), on these rows of the batch; 0 where a row of W_ih is
  // left out.
  void project_input(int64_t begin, int64_t n, const Range& rows, const ForwardPanels<T>& panels, T* gates,
                     T* x_tilde) const {
    const int64_t B = layer_.B, I = layer_.I, H = layer_.H;
    const T* x = static_cast<const T*>(layer_.x) + begin * B * I;
    // All of the batch: the rows of several steps lie together.
    const bool whole = rows.size() == B;
    const int64_t pieces = whole ? 1 : n, M = whole ? n * B : rows.size();
    for (int64_t s = 0; s < n && !rows_.all(); ++s) {
      for (int64_t b = rows.begin; b < rows.end; ++b) {
        T* row = gates + (s * B + b) * kGates * H;
        for (const int64_t gate : {kInput, kCandidate}) std::fill_n(row + gate * H, H, T(0));
      }
    }
    for (int64_t g = 0; g < int64_t(x_weight_.groups.size()); ++g) {
      const Group<T>& group = x_weight_.groups[g];
      if (x_tilde) {
        for (int64_t s = 0; s < n; ++s) {
          for (int64_t b = rows.begin; b < rows.end; ++b) {
            const T *row = x + (s * B + b) * I, *mask = x_weight_.mask_of_sample(g, B, b);
            T* out = x_tilde + (s * rows.size() + b - rows.begin) * I;
            for (int64_t i = 0; i < I; ++i) out[i] = mask[i] * row[i];
          }
        }
      }
      for (int64_t s = 0; s < pieces; ++s) {
        const Rows<T> in{x_tilde ? x_tilde + s * M * I : x + (s * B + rows.begin) * I, I, group.columns()};
        panels.multiply(g, gates + (s * B + rows.begin) * kGates * H, in, M);
      }
    }
  }

  // from_h = W_hh h~ of M samples from b on; what belongs to rows left out keeps its value
  void multiply_h(const T* h_in, int64_t b, int64_t M, const ForwardPanels<T>& panels, T* from_h,
                  bool backwards) const {
    const int64_t B = layer_.B, H = layer_.H;
    for (int64_t g = 0; g < int64_t(h_weight_.groups.size()); ++g) {
      const Rows<T> in{h_in + ((n_h_tilde_ > 1 ? g * B : 0) + b) * H, H, h_weight_.groups[g].columns()};
      panels.multiply(g, from_h, in, M, backwards);
    }
  }

  // What the recurrence multiplies at step t: h~ where it is kept, else h as it is.
  const T* h_in_at(int64_t t) const {
    if (keeps_h_tilde_) return h_tilde_at(t);
    if (t == layer_.order.first()) return static_cast<const T*>(layer_.h_0);
    return static_cast<const T*>(layer_.y) + layer_.order.before(t) * layer_.B * layer_.H;
  }
  // Two buffers in turn: while one is written, others may still read the one before.
  T* h_tilde_at(int64_t t) const { return h_tilde_.data() + t % 2 * n_h_tilde_ * layer_.B * layer_.H; }

  void mask_h_0(const Range& rows) const {
    const int64_t B = layer_.B, H = layer_.H;
    for (int64_t g = 0; g < n_h_tilde_; ++g) {
      for (int64_t b = rows.begin; b < rows.end; ++b) {
        const T *h_0 = static_cast<const T*>(layer_.h_0) + b * H, *mask = h_weight_.mask_of_sample(g, B, b);
        T* out = h_tilde_at(layer_.order.first()) + (g * B + b) * H;
        for (int64_t j = 0; j < H; ++j) out[j] = mask ? mask[j] * h_0[j] : h_0[j];
      }
    }
  }

  StepForward step_at(int64_t t, T* gates) const {
    const int64_t state = layer_.B * layer_.H;
    const TimeOrder& order = layer_.order;
    StepForward step;
    step.dtype = layer_.dtype;
    step.B = layer_.B;
    step.H = layer_.H;
    step.t = t;
    step.b_ih = layer_.b_ih;
    step.b_hh = layer_.b_hh;
    step.noise = layer_.noise.at_step(t);
    step.lengths = layer_.lengths;
    step.n_h_tilde = n_h_tilde_;
    step.mask_h = masks_h_rows_ ? layer_.mask_h.data : nullptr;
    step.h_tilde_next = keeps_h_tilde_ && t != order.last() ? h_tilde_at(order.next(t)) : nullptr;
    step.h_tilde_stride = state;
    step.gates = gates;
    step.c_prev = static_cast<const T*>(layer_.c) + layer_.c_slot(order.slot_before(t)) * state;
    step.c = static_cast<T*>(layer_.c) + layer_.c_slot(order.slot(t)) * state;
    step.y = static_cast<T*>(layer_.y) + t * state;
    step.h_state = layer_.lengths || layer_.noise.zone_h.data ? layer_.h_n : nullptr;
    return step;
  }

  const LayerForward& layer_;
  KeptRows rows_;
  Weight<T> x_weight_, h_weight_;
  bool masks_h_rows_, keeps_h_tilde_;
  int64_t n_h_tilde_;
  std::vector<Buffer<T>> x_panels_, h_panels_;  // of each group
  Buffer<T> h_tilde_;                           // two times [n_h_tilde,B,H]
  Buffer<T> gates_of_chunk_;                    // [steps,B,4H]
};

}  // namespace

template <class T>
void forward_in(const LayerForward& layer) {
  Forward<T>(layer).run();
}

template void forward_in<double>(const LayerForward&);
template void forward_in<float>(const LayerForward&);

}  // namespace rnndrop::cpu
