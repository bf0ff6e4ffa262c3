// The engine's forward: W_ih x~ for a few steps at once, then step by step W_hh h~ and the cell.
//
// Each thread owns a slice of the batch through all steps and never waits for another; where the batch is too small
// for that, it owns a slice of the units instead, for all of the batch, and there is a barrier a step. W_hh is read
// from the cache once for each block of rows.
//
// Cost: 2 * T * B * 4H * (I + H) flops, times the share kept; beside them one pass over the gates a step
// (step_kernels.cpp).
#include <algorithm>

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
    x_weight_.allocate_forward();
    h_weight_.allocate_forward();
  }

  void run() {
    with_team(enough_for_several(layer_), [&](const Team& team) {
      x_weight_.pack_forward(team);
      h_weight_.pack_forward(team);
      if (keeps_h_tilde_) mask_h_0(team.share(layer_.B));
      team.barrier();
      run_member(team);
    });
  }

 private:
  void run_member(const Team& team) {
    const int64_t width = h_weight_.width, n_blocks = h_weight_.unit_blocks();
    const bool rows_split = !rows_.all() || splits_rows(layer_, team.size);
    const Range rows = rows_split ? team.share(layer_.B) : Range{0, layer_.B};
    const Range blocks = rows_split ? Range{0, n_blocks} : team.share(n_blocks);
    const int64_t units = blocks.size() * width;
    const Buffer<T> from_h(kRowBlock * kGates * units);
    if (!rows_.all()) std::fill_n(from_h.data(), kRowBlock * kGates * units, T(0));
    // Without saved gates all threads write to one buffer, so that its chunks have to be the same for all.
    const int64_t steps = steps_per_chunk(layer_, layer_.gates ? rows.size() : layer_.B);
    const Buffer<T> x_tilde(layer_.mask_x.data && layer_.mask_x.per_sample ? steps * rows.size() * layer_.I : 0);

    for_each_chunk(layer_.order, steps, [&](int64_t begin, int64_t n) {
      T* gates =
          layer_.gates ? static_cast<T*>(layer_.gates) + begin * layer_.B * kGates * layer_.H : gates_of_chunk_.data();
      project_input(begin, n, rows, blocks, gates, x_tilde.data());
      for_each_step(layer_.order, begin, n, [&](int64_t t) {
        const StepForward step = step_at(t, gates + (t - begin) * layer_.B * kGates * layer_.H);
        const T* h_in = h_in_at(t);
        for_each_block(rows, kRowBlock, [&](int64_t b, int64_t M) {
          multiply_h(h_in, b, M, blocks, from_h.data(), units);
          const Part part{b, b + M, blocks.begin * width, std::min(layer_.H, blocks.end * width)};
          step_forward(step, part, {from_h.data(), kGates * units, units});
        });
        if (!rows_split) team.barrier();
      });
    });
  }

  // gates [n,B,4H] = W_ih x~ for steps [begin, begin + n), on these rows of the batch and these blocks of units; 0
  // where a row is left out.
  void project_input(int64_t begin, int64_t n, const Range& rows, const Range& blocks, T* gates, T* x_tilde) const {
    const int64_t B = layer_.B, I = layer_.I, H = layer_.H, width = x_weight_.width;
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
      for (int64_t block = blocks.begin; block < blocks.end; ++block) {
        for (int64_t gate = 0; gate < group.n_gates; ++gate) {
          if (block >= x_weight_.unit_blocks(group.first_gate + gate)) continue;
          const Units& units = rows_.units(group.first_gate + gate);
          const T* panel = x_weight_.forward_panel(g, block, gate);
          for (int64_t s = 0; s < pieces; ++s) {
            const Rows<T> in{x_tilde ? x_tilde + s * M * I : x + (s * B + rows.begin) * I, I, group.columns()};
            T* out = gates + (s * B + rows.begin) * kGates * H + (group.first_gate + gate) * H;
            multiply_units(out, kGates * H, in, M, group.K(), panel, units, block);
          }
        }
      }
    }
  }

  // A product with panel `block` of a gate, each column to its unit's place in out.
  void multiply_units(T* out, int64_t stride, const Rows<T>& in, int64_t M, int64_t K, const T* panel,
                      const Units& units, int64_t block) const {
    const int64_t width = x_weight_.width, first = block * width, n = std::min(width, units.size() - first);
    if (units.all && n == width) return multiply_panel(out + first, stride, in, M, K, panel);
    T tile[kRowBlock * kWidestPanel];
    for_each_block({0, M}, kRowBlock, [&](int64_t m, int64_t rows) {
      multiply_panel(tile, width, Rows<T>{in.data + m * in.stride, in.stride, in.columns}, rows, K, panel);
      for (int64_t r = 0; r < rows; ++r) {
        T* row = out + (m + r) * stride;
        if (units.all) {
          std::copy_n(tile + r * width, n, row + first);
        } else {
          for (int64_t k = 0; k < n; ++k) row[units.kept[first + k]] = tile[r * width + k];
        }
      }
    });
  }

  // from_h [M,4,units] = W_hh h~ of M samples from b on; what belongs to rows left out keeps its value
  void multiply_h(const T* h_in, int64_t b, int64_t M, const Range& blocks, T* from_h, int64_t units) const {
    const int64_t B = layer_.B, H = layer_.H, width = h_weight_.width;
    for (int64_t g = 0; g < int64_t(h_weight_.groups.size()); ++g) {
      const Group<T>& group = h_weight_.groups[g];
      const Rows<T> in{h_in + ((n_h_tilde_ > 1 ? g * B : 0) + b) * H, H, group.columns()};
      for (int64_t block = blocks.begin; block < blocks.end; ++block) {
        for (int64_t gate = 0; gate < group.n_gates; ++gate) {
          if (block >= h_weight_.unit_blocks(group.first_gate + gate)) continue;
          const Units& of_gate = rows_.units(group.first_gate + gate);
          const T* panel = h_weight_.forward_panel(g, block, gate);
          T* out = from_h + (group.first_gate + gate) * units;
          if (of_gate.all) {  // from_h has room for all of a panel
            multiply_panel(out + (block - blocks.begin) * width, kGates * units, in, M, group.K(), panel);
          } else {
            multiply_units(out, kGates * units, in, M, group.K(), panel, of_gate, block);
          }
        }
      }
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
  Buffer<T> h_tilde_;         // two times [n_h_tilde,B,H]
  Buffer<T> gates_of_chunk_;  // [steps,B,4H]
};

}  // namespace

template <class T>
void forward_in(const LayerForward& layer) {
  Forward<T>(layer).run();
}

template void forward_in<double>(const LayerForward&);
template void forward_in<float>(const LayerForward&);

}  // namespace rnndrop::cpu
