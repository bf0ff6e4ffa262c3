// The engine's forward: W_ih x~ for a few steps at once, then step by step W_hh h~ and the cell.
//
// Each thread owns a slice of the batch through all steps and never waits for another; where the batch is too small
// for that, it owns a slice of the units instead, for all of the batch, and there is a barrier a step; or, where a step
// is too little for that too, a slice of the steps of W_ih x~ alone. W_hh is read from the cache once for each block of
// rows.
//
// Cost: 2 * T * B * 4H * (I + H) flops, times the share kept; beside them one pass over the gates a step
// (step_kernels.cpp).
#include <algorithm>
#include <optional>
#include <vector>

#include "cpu/amx_gemm.h"
#include "cpu/compute_type.h"
#include "cpu/forward_panels.h"
#include "cpu/forward_plan.h"
#include "cpu/from_torch.h"
#include "cpu/layer_engine.h"
#include "cpu/layer_schedule.h"
#include "cpu/layer_weights.h"
#include "cpu/packed_gemm.h"
#include "cpu/projection.h"
#include "cpu/running_rows.h"
#include "cpu/step_kernels.h"
#include "cpu/threads.h"
#include "cpu/widened_steps.h"

namespace rnndrop::cpu {
namespace {

// S is stored, T multiplied.
template <class S, class T>
class Forward {
  using Acc = acc_type<T>;

 public:
  Forward(const LayerForward& layer, const PackedWeights& packed)
      : layer_(layer),
        plan_(layer, packed),
        running_(layer),
        h_memory_(memory_for(plan_.h_weight, plan_.h_packing, packed.W_hh)),
        x_memory_(memory_for(plan_.x_weight, plan_.x_packing, packed.W_ih)),
        h_tilde_(plan_.keeps_h_tilde ? 2 * plan_.n_h_tilde * layer.B * layer.P : 0),
        gates_of_chunk_(plan_.has_gates_of_chunk ? steps_per_chunk(layer, layer.B) * layer.B * kGates * layer.H : 0),
        h_of_step_(plan_.widens_steps ? layer.B * layer.H : 0),
        h_n_(plan_.widens_h_n ? layer.B * layer.H : 0) {
    if (plan_.widens_h_n) convert(h_n_.data(), static_cast<const S*>(layer.h_n), layer.B * layer.H);
    if (layer.W_hr) projection_.emplace(layer, plan_.packs_projection(), plan_.mask_of_rows_of_h(), plan_.n_h_tilde);
  }

  void run() {
    with_team(
        enough_for_several(layer_), [&](const Team& team) { return prepare(team); },
        [&](const Team& team, const Member& member) { run_member(team, member); });
    if (plan_.widens_h_n) convert(static_cast<S*>(layer_.h_n), h_n_.data(), layer_.B * layer_.H);
  }

 private:
  static PanelMemory<T> memory_for(const Weight<S, T>& weight, Packing packing, const void* packed_earlier) {
    PanelMemory<T> memory{packing, {}, static_cast<const T*>(packed_earlier)};
    for (const Group<T>& group : weight.groups) {
      if (packing != Packing::before) break;
      memory.before.emplace_back(ForwardPanels<S, T>::storage_for(weight, group, most_threads()));
    }
    return memory;
  }

  // With room for a whole panel past the last gate.
  GatesLayout from_h_layout(const Range& units) const {
    const int64_t width = plan_.h_weight.width;
    return {round_up(kGates * units.size(), width) + width, units.size(), units.begin, plan_.rows.all()};
  }

  // Portions of a step: their sums, which lie gate by gate, stay in the first cache until the cell takes them.
  struct UnitBlocks {
    int64_t rows, units, row_stride, gate_stride;
  };

  // What a thread owns: rows of the batch or units, and memory.
  struct Member {
    bool rows_split, steps_of_x_shared;
    Range rows, units;
    Range x_rows;  // in the product with x
    GatesLayout from_h_layout;
    ForwardPanels<S, T> x_panels, h_panels;
    UnitBlocks blocks;
    int64_t steps;  // of a chunk
    Buffer<Acc> from_h, bias;
    Buffer<T> x_copies, h_copies, x_tilde;
    std::optional<typename ForwardProjection<S, T>::Member> projection;
  };

  // Packs the member's share of the weights too.
  Member prepare(const Team& team) const {
    const bool rows_split = plan_.splits_batch(team.size);
    const Range rows = rows_split ? running_.share(team) : Range{0, layer_.B};
    // Whole vectors of units, so that no two threads write to one cache line.
    const Range units = rows_split ? Range{0, layer_.H} : team.share(layer_.H, plan_.h_weight.width / 2);
    const int64_t rank = rows_split ? 0 : team.rank;
    const GatesLayout from_h = from_h_layout(units);
    const UnitBlocks blocks = blocks_of(units);
    const bool steps_of_x_shared = plan_.shares_steps_of_x(team.size);
    const Range x_rows = steps_of_x_shared ? Range{0, layer_.B} : rows;
    // All threads write to one buffer of a chunk's gates, so that its chunks have to be the same for all.
    const int64_t steps = steps_per_chunk(layer_, plan_.has_gates_of_chunk ? layer_.B : x_rows.size());
    Member member{
        rows_split,
        steps_of_x_shared,
        rows,
        units,
        x_rows,
        from_h,
        {plan_.x_weight, x_memory_, units, rank, {kGates * layer_.H, layer_.H, 0, false}, plan_.x_order},
        {plan_.h_weight, h_memory_, units, rank, from_h, plan_.h_order},
        blocks,
        steps,
        Buffer<Acc>(plan_.by_units ? kGates * blocks.gate_stride : plan_.most_rows * from_h.row_stride),
        plan_.by_units ? ForwardPanels<S, T>::bias_unit_after_unit(layer_, units) : Buffer<Acc>(0),
        Buffer<T>(plan_.x_weight.room_for_inputs(plan_.takes_x_along ? plan_.most_rows : steps * x_rows.size())),
        Buffer<T>(plan_.h_weight.room_for_inputs(plan_.most_rows)),
        Buffer<T>(plan_.masks_x_rows ? steps * x_rows.size() * layer_.I : 0),
        {}};
    if (!plan_.rows.all()) std::fill_n(member.from_h.data(), plan_.most_rows * from_h.row_stride, Acc(0));
    const Team packers = rows_split ? team : Team{0, 1};
    member.x_panels.pack(packers);
    member.h_panels.pack(packers);
    if (projection_) member.projection.emplace(projection_->prepare(team, rows_split));
    if (plan_.keeps_h_tilde) mask_h_0(team.share(layer_.B));
    return member;
  }

  void run_member(const Team& team, const Member& mine) const {
    const amx::Session session;
    for_each_chunk(layer_.order, mine.steps, [&](int64_t begin, int64_t n) {
      Acc* gates = gates_of_chunk_.data();
      if (!is_16_bits<S> && layer_.gates)
        gates = static_cast<Acc*>(layer_.gates) + begin * layer_.B * kGates * layer_.H;
      const int64_t of_step = layer_.B * kGates * layer_.H;
      if (mine.steps_of_x_shared) {
        const Range steps = team.share(n);
        project_input(begin + steps.begin, steps.size(), mine, gates + steps.begin * of_step);
        team.barrier();
      } else if (!plan_.takes_x_along) {
        project_input(begin, n, mine, gates);
      }
      for_each_piece(layer_.order, begin, n, plan_.widens_steps ? steps_widened_together(layer_) : n,
                     [&](int64_t first, int64_t count) {
                       for_each_step(layer_.order, first, count, [&](int64_t t) {
                         run_step(t, gates ? gates + (t - begin) * of_step : nullptr, mine);
                         if (!mine.rows_split) meet(team, t, mine);
                       });
                       if (plan_.widens_steps && layer_.gates) {
                         convert_rows(static_cast<S*>(layer_.gates) + first * of_step,
                                      gates + (first - begin) * of_step, count, layer_.B,
                                      mine.rows_split ? mine.rows : team.share(layer_.B), kGates * layer_.H);
                       }
                     });
      const bool is_shared = mine.steps_of_x_shared || (plan_.widens_steps && !mine.rows_split);
      if (is_shared) team.barrier();  // the chunk's gates may be overwritten
    });
  }

  // All wait until the h that the next step multiplies is complete.
  void meet(const Team& team, int64_t t, const Member& mine) const {
    team.barrier();
    if (!projection_) return;
    for_each_walk(t, mine.rows, plan_.row_block,
                  [&](int64_t b, int64_t M, Walk walk) { project(t, b, M, walk, mine); });
    team.barrier();
  }

  void run_step(int64_t t, Acc* gates, const Member& mine) const {
    const StepForward step = step_at(t, gates);
    const S* h_in = h_in_at(t);
    const Acc* from_x = plan_.becomes_gates() ? nullptr : gates;
    if (plan_.by_units) return run_by_units(step, from_x, h_in, mine);
    const GatesLayout& layout = mine.from_h_layout;
    for_each_walk(t, mine.rows, plan_.row_block, [&](int64_t b, int64_t M, Walk walk) {
      if (const int64_t running = running_.of(t, b, M)) multiply_h(h_in, b, running, walk, mine);
      step_forward(step, {b, b + M, mine.units.begin, mine.units.end},
                   {mine.from_h.data(), layout.row_stride, layout.gate_stride, false, from_x});
      if (projection_ && mine.rows_split) project(t, b, M, walk, mine);
    });
  }

  UnitBlocks blocks_of(const Range& units) const {
    constexpr int64_t kSums = kFirstCache / sizeof(Acc), kUnits = 64;
    const int64_t granule = std::max<int64_t>(kVectorUnits, ForwardPanels<S, T>::units_at_once());
    // Rows of all units without a gap between them, which the step kernel takes as one.
    for (const int64_t rows : {plan_.row_block, plan_.row_block / 2}) {
      if (units.size() == layer_.H && rows * kGates * layer_.H <= kSums) {
        return {rows, layer_.H, layer_.H, round_up(most_rows_of_walk(rows) * layer_.H, granule) + granule};
      }
    }
    const int64_t n = std::max<int64_t>(units.size(), 1);  // a thread may have none
    const int64_t pieces = (n + kUnits - 1) / kUnits;
    const int64_t at_once = round_up((n + pieces - 1) / pieces, granule);
    return {plan_.row_block, at_once, at_once, plan_.most_rows * at_once};
  }

  // A step for these rows and units: sums [4][rows][units] = W_hh h~ + b, + W_ih x~ where that is taken along; the
  // cell.
  void run_by_units(const StepForward& step, const Acc* from_x, const S* h_in, const Member& mine) const {
    const Range& units = mine.units;
    const UnitBlocks& blocks = mine.blocks;
    const Acc* bias = mine.bias.data();
    Acc* sums = mine.from_h.data();
    const int64_t at_once = ForwardPanels<S, T>::units_at_once(), width = plan_.h_weight.width;
    const S* x = static_cast<const S*>(layer_.x) + step.t * layer_.B * layer_.I;
    const Group<T>&of_h = plan_.h_weight.groups[0], &of_x = plan_.x_weight.groups[0];
    // The kernel reads both by columns, or neither.
    const bool has_columns = !of_h.all || (plan_.takes_x_along && !of_x.all);
    const auto rows_of = [&](const Group<T>& group, const S* in, int64_t K, int64_t M, T* copies) {
      return group.inputs.of(Rows<S>{in, K, has_columns ? group.kept.data() : nullptr}, M, copies);
    };
    // Without a gap, lanes past a row's end reach into the next row: the last units are taken first.
    const bool has_gaps = blocks.row_stride % at_once == 0;
    for_each_walk(step.t, mine.rows, blocks.rows, [&](int64_t b, int64_t M, Walk walk) {
      const int64_t running = running_.of(step.t, b, M);
      const Rows<T> h_rows = rows_of(of_h, h_in + b * layer_.P, layer_.P, running, mine.h_copies.data());
      Rows<T> x_rows = h_rows;
      if (plan_.takes_x_along) x_rows = rows_of(of_x, x + b * layer_.I, layer_.I, running, mine.x_copies.data());
      walk.for_each((units.size() + blocks.units - 1) / blocks.units, [&](int64_t block) {
        const int64_t u = block * blocks.units, n = std::min(blocks.units, units.size() - u);
        (has_gaps ? walk : Walk{.back = true}).for_each(running ? (n + at_once - 1) / at_once : 0, [&](int64_t v) {
          for (const int64_t half : {0, 1}) {
            const int64_t p = 2 * (u / at_once + v) + half;
            const Product<T> with_x =
                plan_.takes_x_along ? mine.x_panels.product(p, x_rows) : Product<T>{h_rows, 0, nullptr};
            multiply_panel_halves(sums + 2 * half * blocks.gate_stride + v * at_once, blocks.row_stride,
                                  blocks.gate_stride, bias + p * width, mine.h_panels.product(p, h_rows), with_x,
                                  running);
          }
        });
        const int64_t unit = units.begin + u;
        step_forward(
            step, {b, b + M, unit, unit + n},
            {sums, blocks.row_stride, blocks.gate_stride, plan_.takes_x_along, plan_.takes_x_along ? nullptr : from_x});
        if (plan_.widens_steps) round_h(step.t, {b, b + M}, {unit, unit + n});
      });
      if (projection_ && mine.rows_split) project(step.t, b, M, walk, mine);
    });
  }

  void round_h(int64_t t, const Range& rows, const Range& units) const {
    const int64_t H = layer_.H;
    S* h = h_of_cell_at(t);
    const Acc* wide = h_of_step_.data();
    const int64_t first = rows.begin * H + units.begin;
    if (units.size() == H) return convert(h + first, wide + first, rows.size() * H);
    convert(h + first, H, wide + first, H, rows.size(), units.size());
  }

  // h of M samples from b on, of which h_full is there.
  void project(int64_t t, int64_t b, int64_t M, Walk walk, const Member& mine) const {
    const S* h_full = h_of_cell_at(t) + b * layer_.H;
    projection_->run(t, b, M, walk, h_full, h_tilde_after(t), *mine.projection);
  }

  // gates [n,B,4H] = W_ih x~ for steps [begin, begin + n), on these rows of the batch as far as they run; 0 where a row
  // of W_ih is left out.
  void project_input(int64_t begin, int64_t n, const Member& mine, Acc* gates) const {
    const int64_t B = layer_.B, I = layer_.I, H = layer_.H;
    const Range& rows = mine.x_rows;
    T *x_tilde = mine.x_tilde.data(), *x_copies = mine.x_copies.data();
    const S* x = static_cast<const S*>(layer_.x) + begin * B * I;
    // work(first, M) for rows that lie together: of several steps, where they are all of the batch.
    const auto for_each_part = [&](const auto& work) {
      const auto running = [&](int64_t first, int64_t M, int64_t) {
        if (M > 0) work(first, M);
      };
      if (rows.size() == B) return running_.for_each_part(begin, {0, n * B}, running);
      for (int64_t s = 0; s < n; ++s) {
        running_.for_each_part(begin, {s * B + rows.begin, s * B + rows.end}, running);
      }
    };
    for (int64_t s = 0; s < n && !plan_.rows.all(); ++s) {
      for (int64_t b = rows.begin; b < rows.end; ++b) {
        Acc* row = gates + (s * B + b) * kGates * H;
        for (const int64_t gate : {kInput, kCandidate}) std::fill_n(row + gate * H, H, Acc(0));
      }
    }
    for (int64_t g = 0; g < int64_t(plan_.x_weight.groups.size()); ++g) {
      const Group<T>& group = plan_.x_weight.groups[g];
      for_each_part([&](int64_t first, int64_t M) {
        const Rows<S> in{x + first * I, I, group.columns()};
        for (int64_t r = 0; x_tilde && r < M; ++r) {
          T* out = x_tilde + r * I;
          const T* mask = plan_.x_weight.mask_of_sample(g, B, (first + r) % B);
          const S* row = in.data + r * I;
          if constexpr (std::is_same_v<S, T>) {
            multiply_elements(out, mask, row, I);
          } else {
            convert(out, row, I);
            multiply_elements(out, mask, out, I);
          }
        }
        const Rows<T> masked{x_tilde, I, group.columns()};
        mine.x_panels.multiply(g, gates + first * kGates * H,
                               x_tilde ? group.inputs.of(masked, M, x_copies) : group.inputs.of(in, M, x_copies), M,
                               Walk{});
      });
    }
  }

  // from_h = W_hh h~ of M samples from b on; what belongs to rows left out keeps its value
  void multiply_h(const S* h_in, int64_t b, int64_t M, Walk walk, const Member& mine) const {
    const int64_t B = layer_.B, P = layer_.P;
    for (int64_t g = 0; g < int64_t(plan_.h_weight.groups.size()); ++g) {
      const Rows<S> in{h_in + ((plan_.n_h_tilde > 1 ? g * B : 0) + b) * P, P, plan_.h_weight.groups[g].columns()};
      mine.h_panels.multiply(g, mine.from_h.data(), plan_.h_weight.groups[g].inputs.of(in, M, mine.h_copies.data()), M,
                             walk);
    }
  }

  // What the recurrence multiplies at step t: h~ where it is kept, else h as it is.
  const S* h_in_at(int64_t t) const {
    if (plan_.keeps_h_tilde) return h_tilde_at(t);
    if (t == layer_.order.first()) return static_cast<const S*>(layer_.h_0);
    return static_cast<const S*>(layer_.y) + layer_.order.before(t) * layer_.B * layer_.P;
  }
  // Two buffers in turn: while one is written, others may still read the one before.
  S* h_tilde_at(int64_t t) const { return h_tilde_.data() + t % 2 * plan_.n_h_tilde * layer_.B * layer_.P; }
  S* h_tilde_after(int64_t t) const {
    return plan_.keeps_h_tilde && t != layer_.order.last() ? h_tilde_at(layer_.order.next(t)) : nullptr;
  }
  // [B,H] o * tanh(c): y, or what is projected to it.
  S* h_of_cell_at(int64_t t) const {
    const int64_t at = t * layer_.B * layer_.H;
    if (!layer_.W_hr) return static_cast<S*>(layer_.y) + at;
    return static_cast<S*>(layer_.h_full) + (layer_.gates ? at : 0);
  }

  void mask_h_0(const Range& rows) const {
    const int64_t B = layer_.B, P = layer_.P;
    const S* of_rows = plan_.mask_of_rows_of_h();
    for (int64_t g = 0; g < plan_.n_h_tilde; ++g) {
      for (int64_t b = rows.begin; b < rows.end; ++b) {
        const S* h_0 = static_cast<const S*>(layer_.h_0) + b * P;
        const S* mask = of_rows ? of_rows + (g * B + b) * P : nullptr;
        S* out = h_tilde_at(layer_.order.first()) + (g * B + b) * P;
        for (int64_t j = 0; j < P; ++j) out[j] = mask ? mask[j] * h_0[j] : h_0[j];
      }
    }
  }

  StepForward step_at(int64_t t, Acc* gates) const {
    const int64_t state = layer_.B * layer_.H;
    const TimeOrder& order = layer_.order;
    StepForward step;
    step.dtype = layer_.dtype;
    step.B = layer_.B;
    step.H = layer_.H;
    step.t = t;
    if (!plan_.by_units) {
      step.b_ih = layer_.b_ih;
      step.b_hh = layer_.b_hh;
    }
    step.lengths = layer_.lengths;
    if (plan_.becomes_gates()) {
      step.gates = gates;
    } else if (layer_.gates) {
      step.gates = static_cast<S*>(layer_.gates) + t * kGates * state;
    }
    step.c_prev = static_cast<const Acc*>(layer_.c) + layer_.c_slot(order.slot_before(t)) * state;
    step.c = static_cast<Acc*>(layer_.c) + layer_.c_slot(order.slot(t)) * state;
    step.y = h_of_cell_at(t);
    if (plan_.widens_steps) {
      step.dtype = Dtype::float32;
      step.y = h_of_step_.data();
    }
    step.noise = layer_.noise.at_step(t);
    if (projection_) {  // which has what is missing
      step.noise.zone_h = {};
      return step;
    }
    step.n_h_tilde = plan_.n_h_tilde;
    step.mask_h = plan_.mask_of_rows_of_h();
    step.h_tilde_next = h_tilde_after(t);
    step.h_state = plan_.widens_h_n ? h_n_.data() : layer_.h_n;
    return step;
  }

  const LayerForward& layer_;
  const ForwardPlan<S, T> plan_;
  RunningRows running_;
  PanelMemory<T> h_memory_, x_memory_;
  Buffer<S> h_tilde_;           // two times [n_h_tilde,B,P]
  Buffer<Acc> gates_of_chunk_;  // [steps,B,4H]: where none are saved, and of 16 bits' gates what W_ih brings to them
  Buffer<Acc> h_of_step_;       // [B,H] o * tanh(c), where it is widened
  Buffer<Acc> h_n_;             // [B,H], where it is widened
  std::optional<ForwardProjection<S, T>> projection_;
};

}  // namespace

template <class S, class T>
void forward_in(const LayerForward& layer, const PackedWeights& packed) {
  Forward<S, T>(layer, packed).run();
}

template void forward_in<double, double>(const LayerForward&, const PackedWeights&);
template void forward_in<float, float>(const LayerForward&, const PackedWeights&);
template void forward_in<c10::BFloat16, c10::BFloat16>(const LayerForward&, const PackedWeights&);
template void forward_in<c10::BFloat16, float>(const LayerForward&, const PackedWeights&);
template void forward_in<c10::Half, float>(const LayerForward&, const PackedWeights&);

}  // namespace rnndrop::cpu
