// The engine's backward: step by step the cell and dh~ = da W_hh; after a few steps dx = da W_ih and the weights'
// gradients (layer_weight_gradients.h).
//
// Threads own rows or units as in the forward.
//
// Cost: 2 * T * B * 4H * (I + H) flops, times the share kept, and as many for the gradients of the weights; beside them
// one pass over the gates a step (step_kernels.cpp).
#include <algorithm>
#include <optional>

#include "cpu/amx_gemm.h"
#include "cpu/backward_panels.h"
#include "cpu/compute_type.h"
#include "cpu/layer_engine.h"
#include "cpu/layer_schedule.h"
#include "cpu/layer_weight_gradients.h"
#include "cpu/layer_weights.h"
#include "cpu/packed_gemm.h"
#include "cpu/projection.h"
#include "cpu/running_rows.h"
#include "cpu/step_kernels.h"
#include "cpu/subnormals.h"
#include "cpu/threads.h"
#include "cpu/widened_steps.h"

namespace rnndrop::cpu {
namespace {

// S is stored, T multiplied.
template <class S, class T>
class Backward {
  using Acc = acc_type<T>;

 public:
  explicit Backward(const LayerBackward& layer)
      : layer_(layer),
        row_block_(row_block<T>(layer)),
        most_rows_(most_rows_of_walk(row_block_)),
        running_(layer),
        rows_(layer.H, shared_mask_g<S>(layer)),
        x_factor_mask_(layer.mask_x, layer.B, layer.I),
        h_factor_mask_(layer.mask_h, layer.B, layer.P),
        x_weight_(layer.W_ih, x_factor_mask_.mask, rows_, layer.I),
        h_weight_(layer.W_hh, h_factor_mask_.mask, rows_, layer.P),
        mask_x_(layer.mask_x, layer.B, layer.I, layer.need_dx && masks_products(layer.mask_x, layer.I)),
        mask_h_(layer.mask_h, layer.B, layer.P, masks_products(layer.mask_h, layer.P)),
        masks_h_rows_(mask_h_.mask.data && mask_h_.mask.per_sample),
        steps_(steps_per_chunk(layer, layer.B)),
        da_(steps_ * layer.B * kGates * layer.H),
        dh_tilde_(is_16_bits<S> ? size_of_dh_tilde() : 0),
        widens_steps_(!masks_h_rows_ && widens_steps<S, T>(layer)),
        steps_together_(widens_steps_ ? std::min(steps_widened_together(layer), steps_) : steps_),
        gates_(widens_steps_ ? steps_together_ * layer.B * kGates * layer.H : 0),
        dy_(widens_steps_ && layer.dy && !layer.W_hr ? steps_together_ * layer.B * layer.H : 0),
        projection_(projection_of(layer)),
        weight_gradients_(layer, rows_, x_weight_, h_weight_, projection_ ? &projection_->weight() : nullptr, steps_,
                          running_) {
    if (mask_x_.is_spread) {
      whole_x_mask_.emplace(mask_x_.mask, layer.B, layer.I);
      whole_x_weight_.emplace(layer.W_ih, whole_x_mask_->mask, rows_, layer.I);
    }
    if (mask_h_.is_spread) {
      whole_h_mask_.emplace(mask_h_.mask, layer.B, layer.P);
      whole_h_weight_.emplace(layer.W_hh, whole_h_mask_->mask, rows_, layer.P);
    }
    if (packs_x()) x_weight_.allocate_backward();
    if (packs_h()) h_weight_.allocate_backward();
  }

  void run() {
    with_team(
        enough_for_several(layer_), [&](const Team& team) { return prepare(team); },
        [&](const Team& team, const Member& member) { run_member(team, member); });
    if (is_16_bits<S>) convert(static_cast<S*>(layer_.dh_tilde), dh_tilde(), size_of_dh_tilde());
  }

 private:
  std::optional<BackwardProjection<S, T>> projection_of(const LayerBackward& layer) const {
    if (!layer.W_hr) return std::nullopt;
    const bool packs = !(could_read_unpacked(layer.H) && layer.P % kTogether<T> == 0);
    const void* mask_h = masks_h_rows_ ? mask_h_.mask.data : nullptr;
    return std::optional<BackwardProjection<S, T>>(std::in_place, layer, steps_, packs, static_cast<const S*>(mask_h));
  }

  int64_t size_of_dh_tilde() const { return layer_.B * layer_.P * layer_.mask_h.inputs_of_sample(); }
  Acc* dh_tilde() const { return is_16_bits<S> ? dh_tilde_.data() : static_cast<Acc*>(layer_.dh_tilde); }

  bool could_read_unpacked(int64_t columns) const {
    return layer_.T * layer_.B <= most_rows_unpacked<T>(kGates * layer_.H * columns) &&
           columns >= unpacked_columns<T>() && Weight<S, T>::can_read_unpacked();
  }
  // Whether dx or dh is masked where the batch shares a mask, so that its weight can be read where it lies.
  bool masks_products(const InputMask& mask, int64_t columns) const {
    return rows_.all() && could_read_unpacked(columns) &&
           too_little_to_leave_out<S>(mask, columns, layer_.T * layer_.B);
  }
  // The weights as da is multiplied with them.
  const Weight<S, T>& x_factor() const { return whole_x_weight_ ? *whole_x_weight_ : x_weight_; }
  const Weight<S, T>& h_factor() const { return whole_h_weight_ ? *whole_h_weight_ : h_weight_; }

  bool packs_x() const { return layer_.need_dx && packs(x_factor()); }
  bool packs_h() const { return packs(h_factor()); }
  bool packs(const Weight<S, T>& weight) const { return !(could_read_unpacked(weight.columns) && weight.is_whole()); }

  Cut cut(const Team& team) const {
    const Group<T>& group = h_weight_.groups[0];
    const int64_t n_panels = h_weight_.column_blocks(group), P = layer_.P;
    const bool can_share_units =
        packs_h() ? h_weight_.groups.size() == 1 && n_panels > 0 : projection_ || h_factor().shares_columns(team);
    const int64_t at_once = packs_h() ? h_weight_.width : unpacked_columns<T>();
    if (!can_share_units || splits_rows<T>(layer_, P, team.size, at_once)) {
      return {true, running_.share(team), {0, layer_.H}, {0, P}, {0, n_panels}};
    }
    const Range panels = packs_h() ? team.share(n_panels) : Range{0, 0};
    const auto column_of = [&](int64_t panel) -> int64_t {
      return panel == 0 ? 0 : panel == n_panels ? P : group.kept[panel * h_weight_.width];
    };
    const Range columns =
        packs_h() ? Range{column_of(panels.begin), column_of(panels.end)} : h_factor().share_of_columns(team);
    return {false, {0, layer_.B}, columns, columns, panels};
  }

  // A member's own memory, for a few rows at a time.
  struct Scratch {
    Buffer<Acc> rows;     // what comes out of products with a weight, before it is spread or rounded
    Buffer<T> da_copies;  // rows of da, where the products take copies
  };
  struct Member {
    Cut cut;
    typename LayerWeightGradients<S, T>::Share weight_gradients;
    Scratch scratch;
    std::optional<typename BackwardProjection<S, T>::Member> projection;
  };

  // Packs the member's share of the weights too, and zeroes that of dh~.
  Member prepare(const Team& team) const {
    const int64_t da_room =
        std::max(x_weight_.room_for_gradients(most_rows_), h_weight_.room_for_gradients(most_rows_));
    Member member{
        cut(team), weight_gradients_.prepare(team), {Buffer<Acc>(room_for_kept_rows()), Buffer<T>(da_room)}, {}};
    if (packs_x()) x_weight_.pack_backward(team);
    if (packs_h()) h_weight_.pack_backward(team);
    const Range rows = team.share(layer_.B * layer_.mask_h.inputs_of_sample());
    std::fill_n(dh_tilde() + rows.begin * layer_.P, rows.size() * layer_.P, Acc(0));
    if (projection_) {
      member.projection.emplace(projection_->prepare(team, member.cut.by_rows));
      member.cut.units = member.projection->units;
    }
    return member;
  }

  void run_member(const Team& team, const Member& member) const {
    const amx::Session session;
    const SubnormalsAreZero zeros;
    const int64_t B = layer_.B, H = layer_.H;
    const Cut& mine = member.cut;
    const Scratch& scratch = member.scratch;

    const TimeOrder backwards{layer_.T, !layer_.order.reverse};
    for_each_chunk(backwards, steps_, [&](int64_t begin, int64_t n) {
      for_each_piece(backwards, begin, n, steps_together_, [&](int64_t first, int64_t count) {
        if (widens_steps_) {
          widen_steps(first, count, mine.by_rows ? mine.rows : team.share(B));
          if (!mine.by_rows) team.barrier();
        }
        for_each_step(backwards, first, count, [&](int64_t t) {
          T* da = da_.data() + (t - begin) * B * kGates * H;
          const StepBackward step = step_at(t, t - first, da);
          if (mine.by_rows) {
            for_each_walk(t, mine.rows, row_block_, [&](int64_t b, int64_t M, Walk walk) {
              if (projection_) {
                add_gradients_of_h(t, t - begin, b, M, member);
                projection_->multiply(t - begin, b, M, walk, *member.projection);
              }
              step_backward(step, {b, b + M, 0, H}, acc_gradients(t, da));
              input_gradient_of_h(t, da, b, M, walk, mine, scratch);
            });
          } else {
            if (projection_) project_gradients(team, t, t - begin, member);
            step_backward(step, {0, B, mine.units.begin, mine.units.end}, acc_gradients(t, da));
            team.barrier();
            for_each_walk(t, mine.rows, row_block_, [&](int64_t b, int64_t M, Walk walk) {
              input_gradient_of_h(t, da, b, M, walk, mine, scratch);
            });
          }
        });
      });
      team.barrier();  // da of the chunk is complete

      const int64_t rows = n * B;
      if (layer_.need_dx) {
        S* dx = static_cast<S*>(layer_.dx) + begin * B * layer_.I;
        if (!packs_x()) {
          input_gradient_of_x_unpacked(team, rows, dx, scratch);
        } else {
          for_each_block(team.share(rows, rows_at_once<T>()), row_block_, [&](int64_t r, int64_t M) {
            running_.for_each_part(begin, {r, r + M}, [&](int64_t first, int64_t running, int64_t ended) {
              if (running > 0) input_gradient_of_x(first, running, dx, scratch);
              std::fill_n(dx + (first + running) * layer_.I, ended * layer_.I, S(0));
            });
          });
        }
      }
      if (layer_.need_dW) {
        const T* dh = projection_ ? projection_->dh() : nullptr;
        weight_gradients_.add_steps(team, begin, n, da_.data(), dh, member.weight_gradients, scratch.rows.data());
      } else {
        team.barrier();  // da may be overwritten
      }
    });
    if (layer_.need_dW && !rows_.all()) weight_gradients_.zero_dropped_rows(team.share(kGates * H));
    if (mask_h_.is_spread) mask_dh_tilde(mine);
  }

  // dL/dh of M samples from b on, and the same for all samples and dL/d(o * tanh(c)) of the member's units, for which
  // all wait for dL/dh.
  void add_gradients_of_h(int64_t t, int64_t place, int64_t b, int64_t M, const Member& member) const {
    const bool last = t == layer_.order.last();
    projection_->add_gradients_of_h(t, place, b, M, member.cut.columns, last ? nullptr : dh_tilde(), dh_carry_at(t),
                                    *member.projection);
  }
  void project_gradients(const Team& team, int64_t t, int64_t place, const Member& member) const {
    for_each_block({0, layer_.B}, row_block_,
                   [&](int64_t b, int64_t M) { add_gradients_of_h(t, place, b, M, member); });
    team.barrier();
    for_each_walk(t, {0, layer_.B}, row_block_, [&](int64_t b, int64_t M, Walk walk) {
      projection_->multiply(place, b, M, walk, *member.projection);
    });
  }

  // gates and dy of n steps, a member's share of the batch.
  void widen_steps(int64_t begin, int64_t n, const Range& rows) const {
    const int64_t B = layer_.B, H = layer_.H;
    const auto widen = [&](const Buffer<Acc>& out, const void* in, int64_t columns) {
      convert_rows(out.data(), static_cast<const S*>(in) + begin * B * columns, n, B, rows, columns);
    };
    widen(gates_, layer_.gates, kGates * H);
    if (layer_.dy && !projection_) widen(dy_, layer_.dy, H);
  }

  int64_t room_for_kept_rows() const {
    int64_t room = 0;
    for (const Weight<S, T>* weight : {&x_weight_, &h_weight_}) {
      for (const Group<T>& group : weight->groups) {
        if (is_16_bits<S> || group.mask || !rows_.all()) {
          const int64_t of_row = std::max(weight->stride_of_sums(group), is_16_bits<S> ? weight->columns : 0);
          room = std::max(room, of_row + group.room());
        }
      }
    }
    return room * (most_rows_ + 1) + (std::is_same_v<S, Acc> ? 0 : std::max(layer_.I, layer_.P));
  }

  // What dL/dh~ of the first step is where the weight has the mask, in whose place the step kernel had it.
  void mask_dh_tilde(const Cut& mine) const {
    for (int64_t b = mine.rows.begin; b < mine.rows.end; ++b) {
      const T* mask = h_factor().mask_of_sample(0, layer_.B, b);
      for (int64_t j = mine.columns.begin; j < mine.columns.end; ++j) dh_tilde()[b * layer_.P + j] *= mask[j];
    }
  }

  // dh~ = da W_hh at one step: M rows from b on, a member's columns.
  void input_gradient_of_h(int64_t t, const T* da, int64_t b, int64_t M, Walk walk, const Cut& mine,
                           const Scratch& scratch) const {
    const int64_t running = running_.of(t, b, M), n_dh_tilde = layer_.mask_h.inputs_of_sample();
    for (int64_t row = b + running; row < b + M; ++row) {
      for (int64_t g = 0; g < n_dh_tilde; ++g) {
        std::fill_n(dh_tilde() + (g * layer_.B + row) * layer_.P + mine.columns.begin, mine.columns.size(), Acc(0));
      }
    }
    if (running > 0) multiply_with_h_weight(da, b, running, walk, mine, scratch);
  }

  void multiply_with_h_weight(const T* da, int64_t b, int64_t M, Walk walk, const Cut& mine,
                              const Scratch& scratch) const {
    const int64_t B = layer_.B, P = layer_.P, width = h_weight_.width, n_groups = h_weight_.groups.size();
    da += b * kGates * layer_.H;
    if (!packs_h()) return h_factor().multiply_by_rows(da, M, mine.columns, dh_tilde() + b * P);
    if (n_groups == 1 && mine.by_rows)
      return multiply_all_columns(h_weight_, da, M, walk, dh_tilde() + b * P, scratch.rows.data(),
                                  scratch.da_copies.data());
    Acc tile[kMostRowBlock * kWidestPanel];
    const bool separate = masks_h_rows_;  // each gate's own dh~, for the step kernel to mask and add
    if (n_groups > 1 && !separate) std::fill_n(dh_tilde() + b * P, M * P, Acc(0));
    for (int64_t g = 0; g < n_groups; ++g) {
      const Group<T>& group = h_weight_.groups[g];
      const Rows<T> in = group.gradients.of(h_weight_.da_rows(group, da), M, scratch.da_copies.data());
      const Range blocks = n_groups > 1 ? Range{0, h_weight_.column_blocks(group)} : mine.panels;
      Acc* of_group = dh_tilde() + ((separate ? g * B : 0) + b) * P;
      walk.for_each(blocks.size(), [&](int64_t i) {
        const int64_t block = blocks.begin + i;
        multiply_panel(tile, width, in, M, group.M(), h_weight_.backward_panel(g, block),
                       group.columns_in(block, width));
        put_columns(group, block, width, tile, M, static_cast<const T*>(nullptr), n_groups > 1 && !separate, of_group,
                    P);
      });
    }
  }

  // dx = m_x * (da W_ih) for M rows of the chunk from r on
  void input_gradient_of_x(int64_t r, int64_t M, S* dx, const Scratch& scratch) const {
    const int64_t B = layer_.B, I = layer_.I, n_groups = x_weight_.groups.size();
    const T* da = da_.data() + r * kGates * layer_.H;
    const bool of_samples = x_weight_.mask.data && x_weight_.mask.per_sample;
    if (n_groups == 1 && !of_samples)
      return multiply_all_columns(x_weight_, da, M, {}, dx + r * I, scratch.rows.data(), scratch.da_copies.data());
    Acc* out = before_rounding(dx + r * I, scratch);
    if (n_groups == 1) {
      multiply_all_columns(x_weight_, da, M, {}, out, static_cast<Acc*>(nullptr), scratch.da_copies.data());
      mask_rows(x_weight_, r, M, {0, I}, out);
      if (is_16_bits<S>) convert(dx + r * I, out, M * I);
      return;
    }
    Acc tile[kMostRowBlock * kWidestPanel];
    if (n_groups > 1) std::fill_n(out, M * I, Acc(0));
    for (int64_t g = 0; g < n_groups; ++g) {
      const Group<T>& group = x_weight_.groups[g];
      const Rows<T> in = group.gradients.of(x_weight_.da_rows(group, da), M, scratch.da_copies.data());
      for (int64_t block = 0; block < x_weight_.column_blocks(group); ++block) {
        multiply_panel(tile, x_weight_.width, in, M, group.M(), x_weight_.backward_panel(g, block),
                       group.columns_in(block, x_weight_.width));
        for (int64_t m = 0; m < M; ++m) {
          put_columns(group, block, x_weight_.width, tile + m * x_weight_.width, 1,
                      x_weight_.mask_of_sample(g, B, (r + m) % B), n_groups > 1, out + m * I, I);
        }
      }
    }
    if (is_16_bits<S>) convert(dx + r * I, out, M * I);
  }
  // Some columns of M rows of the chunk from r on, by each sample's mask, if any.
  void mask_rows(const Weight<S, T>& weight, int64_t r, int64_t M, const Range& columns, Acc* rows) const {
    if (!weight.mask.data || !weight.mask.per_sample) return;
    int64_t b = r % layer_.B;
    for (int64_t m = 0; m < M; ++m, rows += layer_.I) {
      const T* mask = weight.mask_of_sample(0, layer_.B, b);
      for (int64_t i = columns.begin; i < columns.end; ++i) rows[i] *= mask[i];
      if (++b == layer_.B) b = 0;
    }
  }
  static Acc* before_rounding(S* dx, const Scratch& scratch) {
    if constexpr (is_16_bits<S>) {
      return scratch.rows.data();
    } else {
      return dx;
    }
  }

  // The same for all rows of the chunk, from W_ih where it lies.
  void input_gradient_of_x_unpacked(const Team& team, int64_t rows, S* dx, const Scratch& scratch) const {
    const int64_t I = layer_.I;
    const bool shares_columns = x_factor().shares_columns(team);
    const Range mine = shares_columns ? Range{0, rows} : team.share(rows);
    const Range columns = shares_columns ? x_factor().share_of_columns(team) : Range{0, I};
    for_each_block(mine, is_16_bits<S> ? row_block_ : rows, [&](int64_t r, int64_t M) {
      Acc* out = before_rounding(dx + r * I, scratch);
      x_factor().multiply_by_rows(da_.data() + r * kGates * layer_.H, M, columns, out);
      mask_rows(x_factor(), r, M, columns, out);
      if (is_16_bits<S>) convert(dx + r * I + columns.begin, I, out + columns.begin, I, M, columns.size());
    });
  }

  // What the step kernel reads and writes in Acc though S is another type.
  AccGradients acc_gradients(int64_t t, T* da) const {
    AccGradients gradients;
    if (widens_steps_) return gradients;
    if (is_16_bits<S>) gradients.dh_tilde_next = from_gemm_at(t);
    if (!std::is_same_v<S, T>) gradients.da = da;
    return gradients;
  }

  // Step t, the `place`th of those that are widened together.
  StepBackward step_at(int64_t t, int64_t place, T* da) const {
    const int64_t state = layer_.B * layer_.H;
    const TimeOrder& order = layer_.order;
    StepBackward step;
    step.dtype = widens_steps_ ? Dtype::float32 : layer_.dtype;
    step.B = layer_.B;
    step.H = layer_.H;
    step.t = t;
    step.noise = layer_.noise.at_step(t);
    step.lengths = layer_.lengths;
    if (widens_steps_ || !is_16_bits<S>) step.dh_tilde_next = from_gemm_at(t);
    if (widens_steps_) {
      step.gates = gates_.data() + place * kGates * state;
      step.da = da;
    } else {
      step.gates = static_cast<const S*>(layer_.gates) + t * kGates * state;
      if (std::is_same_v<S, T>) step.da = da;
    }
    step.c_prev = static_cast<const Acc*>(layer_.c) + order.slot_before(t) * state;
    step.c = static_cast<const Acc*>(layer_.c) + order.slot(t) * state;
    step.dc = layer_.dc;
    if (projection_) {  // which has taken what is missing
      step.noise.zone_h = {};
      return step;
    }
    step.n_h_tilde = layer_.mask_h.inputs_of_sample();
    step.mask_h = masks_h_rows_ ? mask_h_.mask.data : nullptr;
    if (layer_.dy) {
      const S* dy = static_cast<const S*>(layer_.dy) + t * state;
      step.dy = widens_steps_ ? static_cast<const void*>(dy_.data() + place * state) : dy;
    }
    step.dh_carry = dh_carry_at(t);
    return step;
  }

  // What a product brings to the cell's h at step t: dh~ of the step after, or that behind the projection.
  const Acc* from_gemm_at(int64_t t) const {
    if (projection_) return projection_->dh_full();
    return t == layer_.order.last() ? nullptr : dh_tilde();
  }
  // Without lengths and zoneout only the last step takes a gradient from it: dh_n.
  Acc* dh_carry_at(int64_t t) const {
    const bool carries = t == layer_.order.last() || layer_.lengths || layer_.noise.zone_h.data;
    return carries ? static_cast<Acc*>(layer_.dh_carry) : nullptr;
  }

  const LayerBackward& layer_;
  int64_t row_block_, most_rows_;
  RunningRows running_;
  KeptRows rows_;
  FactorMask<S, T> x_factor_mask_, h_factor_mask_;
  Weight<S, T> x_weight_, h_weight_;
  SpreadMask<S> mask_x_, mask_h_;
  std::optional<FactorMask<S, T>> whole_x_mask_, whole_h_mask_;
  std::optional<Weight<S, T>> whole_x_weight_, whole_h_weight_;  // for masks that are spread
  bool masks_h_rows_;
  int64_t steps_;         // of a chunk
  Buffer<T> da_;          // [steps,B,4H]
  Buffer<Acc> dh_tilde_;  // as layer_.dh_tilde, before that is rounded
  bool widens_steps_;
  int64_t steps_together_;
  Buffer<Acc> gates_, dy_;  // of these steps, where they are widened
  std::optional<BackwardProjection<S, T>> projection_;
  LayerWeightGradients<S, T> weight_gradients_;
};

}  // namespace

template <class S, class T>
void backward_in(const LayerBackward& layer) {
  Backward<S, T>(layer).run();
}

template void backward_in<double, double>(const LayerBackward&);
template void backward_in<float, float>(const LayerBackward&);
template void backward_in<c10::BFloat16, c10::BFloat16>(const LayerBackward&);
template void backward_in<c10::BFloat16, float>(const LayerBackward&);
template void backward_in<c10::Half, float>(const LayerBackward&);

}  // namespace rnndrop::cpu
