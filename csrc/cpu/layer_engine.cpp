// The whole sequence on the CPU: packed weights, no library, no temporary larger than a few steps.
//
// Each thread owns a slice of the batch through all steps and never waits for another; where the batch is too small
// for that, it owns a slice of the units instead, for all of the batch, and there is a barrier a step. W_hh is read
// from the cache once for each block of rows. Only the gradients of the weights, sums over the batch, are shared: their
// rows are split over the threads once in a few steps.
//
// What a mask drops for the whole batch and sequence is neither packed nor multiplied: columns of x and h, and the rows
// of i and g of units without a candidate. At p = 0.5 the columns are half of the arithmetic, the rows a quarter.
//
// Cost: 2 * T * B * 4H * (I + H) flops forward and twice that backward, each times the share kept; beside them one pass
// over the gates a step (step_kernels.cpp) and one copy of x, h and da for the gradients of the weights.
#include "cpu/layer_engine.h"

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <vector>

#include "cpu/packed_gemm.h"
#include "cpu/step_kernels.h"
#include "cpu/threads.h"

namespace rnndrop::cpu {
namespace {

// Rows that go through GEMM and step kernel together, so that what one leaves is in the first cache for the other.
constexpr int64_t kRowBlock = 24;
// Rows of the input GEMM and of the weights' gradients that are taken together: enough to read W_ih seldom, few enough
// for their gates to stay in the second cache.
constexpr int64_t kChunkRows = 384;
// Fewer multiplications than this are not worth waking the other threads for.
constexpr int64_t kEnoughForSeveral = 1 << 19;
// A thread with fewer rows of the batch than this shares out the units instead; a barrier is worth as many
// multiplications a step.
constexpr int64_t kFewRows = 8;
constexpr int64_t kEnoughForABarrier = 1 << 15;

constexpr int64_t round_up(int64_t n, int64_t granule) { return (n + granule - 1) / granule * granule; }

// Memory that lives for one call, uninitialised.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t n)
      : storage_(n > 0 ? new Line[(n * sizeof(T) + sizeof(Line) - 1) / sizeof(Line)] : nullptr) {}
  T* data() const { return reinterpret_cast<T*>(storage_.get()); }

 private:
  struct alignas(64) Line {
    char bytes[64];
  };
  std::unique_ptr<Line[]> storage_;
};

// ---------------------------------------------------------------- weights

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
  std::vector<int32_t> rows_of_gates(int64_t first, int64_t n) const {
    std::vector<int32_t> rows;
    for (int64_t gate = 0; gate < n; ++gate) {
      for (const int32_t unit : units(first + gate).kept) rows.push_back(gate * H + unit);
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
  bool all;                   // every column is kept
  std::vector<int32_t> rows;  // of these gates, that are multiplied
  bool all_rows;
  int64_t K() const { return kept.size(); }
  int64_t M() const { return rows.size(); }
  const int32_t* columns() const { return all ? nullptr : kept.data(); }
  T scale_of(int64_t k) const { return scale.empty() ? T(1) : scale[k]; }
};

template <class T>
std::vector<Group<T>> groups_of(const InputMask& mask, int64_t K, const KeptRows& rows) {
  const int64_t n = mask.data && mask.per_gate ? kGates : 1;
  std::vector<Group<T>> groups;
  for (int64_t g = 0; g < n; ++g) {
    Group<T> group{g, kGates / n, {}, {}, true, rows.rows_of_gates(g, kGates / n), rows.all()};
    const T* shared = mask.data && !mask.per_sample ? static_cast<const T*>(mask.data) + g * K : nullptr;
    for (int64_t k = 0; k < K; ++k) {
      if (shared && shared[k] == 0) continue;
      group.kept.push_back(k);
      if (shared) group.scale.push_back(shared[k]);
    }
    group.all = group.K() == K;
    groups.push_back(std::move(group));
  }
  return groups;
}

// Kept columns [first, first + n) of a row of the weight, scaled as the mask says, to out at every `stride`-th place.
template <class T>
void copy_kept(const Group<T>& group, const T* row, int64_t first, int64_t n, T* out, int64_t stride) {
  const int32_t* kept = group.kept.data() + first;
  if (group.scale.empty()) {  // there is no mask, and all are kept
    for (int64_t k = 0; k < n; ++k) out[k * stride] = row[first + k];
  } else {
    for (int64_t k = 0; k < n; ++k) out[k * stride] = row[kept[k]] * group.scale[first + k];
  }
}

// W_ih or W_hh [4H, columns] with its mask, packed for one of the two directions.
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

  int64_t unit_blocks() const { return (H + width - 1) / width; }
  int64_t unit_blocks(int64_t gate) const { return (rows.units(gate).size() + width - 1) / width; }
  int64_t column_blocks(const Group<T>& group) const { return (group.K() + width - 1) / width; }

  // For a W^T b: a panel holds the rows of W of one gate and `width` of its units, [K, width].
  void allocate_forward() {
    for (const Group<T>& group : groups) panels.emplace_back(unit_blocks() * group.n_gates * group.K() * width);
  }
  T* forward_panel(int64_t g, int64_t block, int64_t gate) const {
    return panels[g].data() + (block * groups[g].n_gates + gate) * groups[g].K() * width;
  }
  void pack_forward(const Team& team) const {
    const Range blocks = team.share(unit_blocks());
    for (int64_t g = 0; g < int64_t(groups.size()); ++g) {
      const Group<T>& group = groups[g];
      for (int64_t block = blocks.begin; block < blocks.end; ++block) {
        for (int64_t gate = 0; gate < group.n_gates; ++gate) {
          if (block >= unit_blocks(group.first_gate + gate)) continue;
          const Units& units = rows.units(group.first_gate + gate);
          T* panel = forward_panel(g, block, gate);
          for (int64_t lane = 0; lane < width; ++lane) {
            const int64_t n = block * width + lane;
            T* out = panel + lane;
            if (n >= units.size()) {
              for (int64_t k = 0; k < group.K(); ++k) out[k * width] = T(0);
            } else {
              const T* row = W + ((group.first_gate + gate) * H + units.kept[n]) * columns;
              copy_kept(group, row, 0, group.K(), out, width);
            }
          }
        }
      }
    }
  }

  // For da W: a panel holds `width` kept columns of the group's kept rows, [M, width].
  void allocate_backward() {
    for (const Group<T>& group : groups) panels.emplace_back(column_blocks(group) * group.M() * width);
  }
  T* backward_panel(int64_t g, int64_t block) const { return panels[g].data() + block * groups[g].M() * width; }
  void pack_backward(const Team& team) const {
    for (int64_t g = 0; g < int64_t(groups.size()); ++g) {
      const Group<T>& group = groups[g];
      const Range blocks = team.share(column_blocks(group));
      for (int64_t block = blocks.begin; block < blocks.end; ++block) {
        T* panel = backward_panel(g, block);
        for (int64_t r = 0; r < group.M(); ++r) {
          const T* row = W + (group.first_gate * H + group.rows[r]) * columns;
          const int64_t first = block * width, n = std::min(width, group.K() - first);
          copy_kept(group, row, first, n, panel + r * width, 1);
          std::fill_n(panel + r * width + n, width - n, T(0));
        }
      }
    }
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

// The order of time cut into pieces of `steps` steps: work(begin, n) gets each as a range of the time axis.
template <class Work>
void for_each_chunk(const TimeOrder& order, int64_t steps, const Work& work) {
  for (int64_t done = 0; done < order.T; done += steps) {
    const int64_t n = std::min(steps, order.T - done);
    work(order.reverse ? order.T - done - n : done, n);
  }
}

template <class Work>
void for_each_step(const TimeOrder& order, int64_t begin, int64_t n, const Work& work) {
  for (int64_t k = 0; k < n; ++k) work(order.reverse ? begin + n - 1 - k : begin + k);
}

// Rows in blocks: work(first, n).
template <class Work>
void for_each_block(const Range& rows, int64_t block, const Work& work) {
  for (int64_t r = rows.begin; r < rows.end; r += block) work(r, std::min(block, rows.end - r));
}

// Steps of a sequence of `rows` samples that are taken together.
int64_t steps_per_chunk(const LayerProblem& layer, int64_t rows) {
  return std::clamp<int64_t>(kChunkRows / std::max<int64_t>(rows, 1), 1, layer.T);
}

bool enough_for_several(const LayerProblem& layer) {
  return layer.T * layer.B * kGates * layer.H * (layer.I + layer.H) > kEnoughForSeveral;
}

// Whether n threads share out the batch; else they share out the units.
bool splits_rows(const LayerProblem& layer, int64_t n) {
  return layer.B >= n * kFewRows || layer.B * kGates * layer.H * layer.H < kEnoughForABarrier * n;
}

// ---------------------------------------------------------------- forward

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

// ---------------------------------------------------------------- backward

// Columns of an input of the GEMMs, its rows taken from many steps, packed for the weight's gradient; and that
// gradient.
template <class T>
struct WeightGradient {
  WeightGradient(const Weight<T>& weight, bool wanted, int64_t max_rows) : weight(weight) {
    for (const Group<T>& group : weight.groups) {
      if (!wanted) break;
      const int64_t padded = weight.column_blocks(group) * weight.width;
      panels.emplace_back(padded * max_rows);
      sums.emplace_back(group.M() * padded);
    }
  }

  // row_of(r) is the input of row r, sample_of(r) its place in the batch.
  template <class RowOf, class SampleOf>
  void pack(const Team& team, int64_t B, int64_t rows, const RowOf& row_of, const SampleOf& sample_of) const {
    for (int64_t g = 0; g < int64_t(weight.groups.size()); ++g) {
      const Group<T>& group = weight.groups[g];
      const Range mine = team.share(rows);
      const int64_t blocks = weight.column_blocks(group), width = weight.width;
      for (int64_t r = mine.begin; r < mine.end; ++r) {
        const T *in = row_of(r), *mask = weight.mask_of_sample(g, B, sample_of(r));
        for (int64_t block = 0; block < blocks; ++block) {
          T* out = panels[g].data() + (block * rows + r) * width;
          const int64_t first = block * width, n = std::min(width, group.K() - first);
          if (mask) {
            for (int64_t k = 0; k < n; ++k) out[k] = mask[first + k] * in[first + k];
          } else if (group.all) {
            std::copy_n(in + first, n, out);
          } else {
            for (int64_t k = 0; k < n; ++k) out[k] = in[group.kept[first + k]];
          }
          std::fill_n(out + n, width - n, T(0));
        }
      }
    }
  }

  // sums of kept gate rows [m, m + M), M <= rows_at_once(), of group g and a block of columns (+)= da^T in; da_block
  // is packed [rows, rows_at_once].
  void add(int64_t g, int64_t m, int64_t M, int64_t block, const T* da_block, int64_t rows, bool first) const {
    const int64_t stride = weight.column_blocks(weight.groups[g]) * weight.width;
    T* out = sums[g].data() + m * stride + block * weight.width;
    if (first) {
      for (int64_t k = 0; k < M; ++k) std::fill_n(out + k * stride, weight.width, T(0));
    }
    add_transposed_product(out, stride, da_block, M, rows, panels[g].data() + block * rows * weight.width);
  }

  // Row `row` of dW [4H, columns]. m: its index among group g's kept rows, -1 if dropped; the other entries become 0.
  void store_row(int64_t g, int64_t m, int64_t row, T* dW) const {
    const Group<T>& group = weight.groups[g];
    const int64_t stride = weight.column_blocks(group) * weight.width;
    T* out = dW + row * weight.columns;
    if (m < 0 || !group.all) std::fill_n(out, weight.columns, T(0));
    if (m < 0) return;
    const T* sum = sums[g].data() + m * stride;
    for (int64_t k = 0; k < group.K(); ++k) out[group.kept[k]] = sum[k] * group.scale_of(k);
  }

  const Weight<T>& weight;
  std::vector<Buffer<T>> panels, sums;  // of each group: [blocks][rows, width], [M, blocks * width]
};

template <class T>
class Backward {
 public:
  explicit Backward(const LayerBackward& layer)
      : layer_(layer),
        rows_(layer, shared_mask_g<T>(layer)),
        gate_rows_(rows_.rows_of_gates(0, kGates)),
        x_weight_(layer.W_ih, layer.mask_x, rows_, layer.I),
        h_weight_(layer.W_hh, layer.mask_h, rows_, layer.H),
        masks_h_rows_(layer.mask_h.data && layer.mask_h.per_sample),
        steps_(steps_per_chunk(layer, layer.B)),
        da_(steps_ * layer.B * kGates * layer.H),
        dW_ih_(x_weight_, layer.need_dW, rows_of_piece(steps_ * layer.B)),
        dW_hh_(h_weight_, layer.need_dW, rows_of_piece(steps_ * layer.B)) {
    if (layer.need_dx) x_weight_.allocate_backward();
    h_weight_.allocate_backward();
  }

  void run() {
    with_team(enough_for_several(layer_), [&](const Team& team) {
      if (layer_.need_dx) x_weight_.pack_backward(team);
      h_weight_.pack_backward(team);
      const Range rows = team.share(layer_.B * layer_.mask_h.inputs_of_sample());
      std::fill_n(dh_tilde() + rows.begin * layer_.H, rows.size() * layer_.H, T(0));
      team.barrier();
      run_member(team);
    });
  }

 private:
  T* dh_tilde() const { return static_cast<T*>(layer_.dh_tilde); }

  // How a member's share of the recurrence is cut: all units of some rows, or some units of all rows, those whose
  // columns of W_hh are in its panels.
  struct Cut {
    bool by_rows;
    Range rows, units, panels;
  };
  Cut cut(const Team& team) const {
    const Group<T>& group = h_weight_.groups[0];
    const int64_t n_panels = h_weight_.column_blocks(group), H = layer_.H;
    if (h_weight_.groups.size() > 1 || n_panels < team.size || splits_rows(layer_, team.size)) {
      return {true, team.share(layer_.B), {0, H}, {0, n_panels}};
    }
    const Range panels = team.share(n_panels);
    const auto unit_of = [&](int64_t panel) -> int64_t {
      return panel == 0 ? 0 : panel == n_panels ? H : group.kept[panel * h_weight_.width];
    };
    return {false, {0, layer_.B}, {unit_of(panels.begin), unit_of(panels.end)}, panels};
  }

  void run_member(const Team& team) {
    const int64_t B = layer_.B, H = layer_.H;
    const Cut mine = cut(team);
    const auto row_shares = shares_of_gate_rows(team);
    int64_t my_rows = 0;
    for (const Range& share : row_shares) my_rows += round_up(share.size(), rows_at_once());
    const Buffer<T> da_packed(layer_.need_dW ? my_rows * rows_of_piece(steps_ * B) : 0);
    bool first = true;

    const TimeOrder backwards{layer_.T, !layer_.order.reverse};
    for_each_chunk(backwards, steps_, [&](int64_t begin, int64_t n) {
      for_each_step(backwards, begin, n, [&](int64_t t) {
        T* da = da_.data() + (t - begin) * B * kGates * H;
        const StepBackward step = step_at(t, da);
        if (mine.by_rows) {
          for_each_block(mine.rows, kRowBlock, [&](int64_t b, int64_t M) {
            step_backward(step, {b, b + M, 0, H});
            input_gradient_of_h(da, b, M, mine.panels);
          });
        } else {
          step_backward(step, {0, B, mine.units.begin, mine.units.end});
          team.barrier();
          for_each_block(mine.rows, kRowBlock,
                         [&](int64_t b, int64_t M) { input_gradient_of_h(da, b, M, mine.panels); });
        }
      });
      team.barrier();  // da of the chunk is complete

      const int64_t rows = n * B;
      if (layer_.need_dx) {
        T* dx = static_cast<T*>(layer_.dx) + begin * B * layer_.I;
        for_each_block(team.share(rows, kRowBlock), kRowBlock,
                       [&](int64_t r, int64_t M) { input_gradient_of_x(r, M, dx); });
      }
      if (layer_.need_dW) {
        const int64_t piece = rows_of_piece(rows);
        for (int64_t r = 0; r == 0 || r < rows; r += piece) {  // once also for an empty batch, whose sums are 0
          const int64_t n_rows = std::min(piece, rows - r);
          if (r > 0) team.barrier();  // all have read what is packed
          pack_inputs(team, begin, r, n_rows);
          pack_da(row_shares, r, n_rows, da_packed.data());
          team.barrier();
          add_weight_gradients(row_shares, n_rows, da_packed.data(), first);
          first = false;
        }
      } else {
        team.barrier();  // da may be overwritten
      }
    });
    if (layer_.need_dW) {
      team.barrier();
      store_weight_gradients(team.share(kGates * layer_.H));
    }
  }

  // A chunk of a large batch has more rows than the second cache holds panels of.
  static int64_t rows_of_piece(int64_t rows) {
    const int64_t pieces = std::max<int64_t>(1, (rows + kChunkRows / 2) / kChunkRows);
    // At least 1: a loop over pieces must advance, without rows too.
    return std::max<int64_t>(1, (rows + pieces - 1) / pieces);
  }

  // dh~ (+)= da W_hh at one step: M rows from b on, these panels of columns.
  void input_gradient_of_h(const T* da, int64_t b, int64_t M, const Range& panels) const {
    T tile[kRowBlock * kWidestPanel];
    const int64_t B = layer_.B, H = layer_.H, width = h_weight_.width, n_groups = h_weight_.groups.size();
    const bool separate = masks_h_rows_;  // each gate's own dh~, for the step kernel to mask and add
    if (n_groups > 1 && !separate) std::fill_n(dh_tilde() + b * H, M * H, T(0));
    for (int64_t g = 0; g < n_groups; ++g) {
      const Group<T>& group = h_weight_.groups[g];
      const Rows<T> in = h_weight_.da_rows(group, da + b * kGates * H);
      const Range blocks = n_groups > 1 ? Range{0, h_weight_.column_blocks(group)} : panels;
      T* of_group = dh_tilde() + ((separate ? g * B : 0) + b) * H;
      for (int64_t block = blocks.begin; block < blocks.end; ++block) {
        multiply_panel(tile, width, in, M, group.M(), h_weight_.backward_panel(g, block));
        put_columns(group, block, width, tile, M, nullptr, n_groups > 1 && !separate, of_group, H);
      }
    }
  }

  // dx = m_x * (da W_ih) for M rows of the chunk from r on
  void input_gradient_of_x(int64_t r, int64_t M, T* dx) const {
    T tile[kRowBlock * kWidestPanel];
    const int64_t B = layer_.B, H = layer_.H, I = layer_.I, n_groups = x_weight_.groups.size();
    T* out = dx + r * I;
    if (n_groups > 1 || !x_weight_.groups[0].all) std::fill_n(out, M * I, T(0));
    for (int64_t g = 0; g < n_groups; ++g) {
      const Group<T>& group = x_weight_.groups[g];
      const Rows<T> in = x_weight_.da_rows(group, da_.data() + r * kGates * H);
      const auto mask_of_row = [&](int64_t m) { return x_weight_.mask_of_sample(g, B, (r + m) % B); };
      for (int64_t block = 0; block < x_weight_.column_blocks(group); ++block) {
        multiply_panel(tile, x_weight_.width, in, M, group.M(), x_weight_.backward_panel(g, block));
        if (x_weight_.mask.data && x_weight_.mask.per_sample) {
          for (int64_t m = 0; m < M; ++m) {
            put_columns(group, block, x_weight_.width, tile + m * x_weight_.width, 1, mask_of_row(m), n_groups > 1,
                        out + m * I, I);
          }
        } else {
          put_columns(group, block, x_weight_.width, tile, M, nullptr, n_groups > 1, out, I);
        }
      }
    }
  }

  // A panel's product [M, width] to the places of its columns in out: overwrites what is there, or is added to it.
  static void put_columns(const Group<T>& group, int64_t block, int64_t width, const T* tile, int64_t M, const T* mask,
                          bool add, T* out, int64_t stride) {
    const int64_t first = block * width, n = std::min(width, group.K() - first);
    for (int64_t m = 0; m < M; ++m, tile += width, out += stride) {
      if (group.all && !mask && !add) {
        std::copy_n(tile, n, out + first);
        continue;
      }
      for (int64_t k = 0; k < n; ++k) {
        const int64_t column = group.kept[first + k];
        const T value = mask ? mask[column] * tile[k] : tile[k];
        out[column] = add ? out[column] + value : value;
      }
    }
  }

  // ---- gradients of the weights: a member owns rows of each group of gates, as ranges of gate_rows_

  // The index in gate_rows_ of its first row >= row.
  int64_t place_of(int64_t row) const {
    return std::lower_bound(gate_rows_.begin(), gate_rows_.end(), row) - gate_rows_.begin();
  }

  std::vector<Range> shares_of_gate_rows(const Team& team) const {
    // The finer groups, one for each gate, where either weight has them, so that both are cut alike.
    const int64_t n = std::max(x_weight_.groups.size(), h_weight_.groups.size()), rows = kGates / n * layer_.H;
    std::vector<Range> shares;
    for (int64_t g = 0; g < n; ++g) {
      const int64_t begin = place_of(g * rows), end = place_of((g + 1) * rows);
      const Range share = team.share(end - begin, rows_at_once());
      shares.push_back({begin + share.begin, begin + share.end});
    }
    return shares;
  }

  // Rows [r, r + n) of the chunk. Adds their sums to db on the way.
  void pack_da(const std::vector<Range>& shares, int64_t r, int64_t n, T* da_packed) const {
    const T* da = da_.data() + r * kGates * layer_.H;
    for (const Range& share : shares) {
      for_each_block(share, rows_at_once(), [&](int64_t m, int64_t M) {
        pack_transposed(da_packed, Rows<T>{da, kGates * layer_.H, gate_rows_.data() + m}, M, n,
                        static_cast<T*>(layer_.db));
        da_packed += n * rows_at_once();
      });
    }
  }

  // Rows [first, first + n) of the chunk that begins at step `begin`.
  void pack_inputs(const Team& team, int64_t begin, int64_t first, int64_t n) const {
    const int64_t B = layer_.B, H = layer_.H, I = layer_.I;
    const TimeOrder& order = layer_.order;
    const auto sample_of = [&](int64_t r) { return (first + r) % B; };
    const T* x = static_cast<const T*>(layer_.x) + (begin * B + first) * I;
    dW_ih_.pack(team, B, n, [&](int64_t r) { return x + r * I; }, sample_of);
    const auto h_before = [&](int64_t r) {
      const int64_t t = begin + (first + r) / B, b = sample_of(r);
      // Backwards in time a sample begins at its own end; y is 0 past it.
      const bool is_first = t == order.first() || (order.reverse && layer_.lengths && t + 1 == layer_.lengths[b]);
      return is_first ? static_cast<const T*>(layer_.h_0) + b * H
                      : static_cast<const T*>(layer_.y) + (order.before(t) * B + b) * H;
    };
    dW_hh_.pack(team, B, n, h_before, sample_of);
  }

  // A panel of inputs stays in the first cache for all of the member's gate rows.
  void add_weight_gradients(const std::vector<Range>& shares, int64_t rows, const T* da_packed, bool first) const {
    for (const WeightGradient<T>* gradient : {&dW_ih_, &dW_hh_}) {
      const int64_t of_group = gradient->weight.groups[0].n_gates * layer_.H;
      const T* of_share = da_packed;
      for (const Range& share : shares) {
        if (share.size() == 0) continue;
        const int64_t g = gate_rows_[share.begin] / of_group, first_of_group = place_of(g * of_group);
        for (int64_t block = 0; block < gradient->weight.column_blocks(gradient->weight.groups[g]); ++block) {
          const T* da_block = of_share;
          for_each_block(share, rows_at_once(), [&](int64_t m, int64_t M) {
            gradient->add(g, m - first_of_group, M, block, da_block, rows, first);
            da_block += rows * rows_at_once();
          });
        }
        of_share += round_up(share.size(), rows_at_once()) * rows;
      }
    }
  }

  void store_weight_gradients(const Range& rows) const {
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      const int64_t place = place_of(row);
      const bool kept = place < int64_t(gate_rows_.size()) && gate_rows_[place] == row;
      for (const auto& [gradient, dW] : {std::pair(&dW_ih_, layer_.dW_ih), std::pair(&dW_hh_, layer_.dW_hh)}) {
        const int64_t of_group = gradient->weight.groups[0].n_gates * layer_.H, g = row / of_group;
        gradient->store_row(g, kept ? place - place_of(g * of_group) : -1, row, static_cast<T*>(dW));
      }
    }
  }

  StepBackward step_at(int64_t t, T* da) const {
    const int64_t state = layer_.B * layer_.H;
    const TimeOrder& order = layer_.order;
    const bool last = t == order.last();
    StepBackward step;
    step.dtype = layer_.dtype;
    step.B = layer_.B;
    step.H = layer_.H;
    step.t = t;
    step.noise = layer_.noise.at_step(t);
    step.lengths = layer_.lengths;
    step.n_h_tilde = layer_.mask_h.inputs_of_sample();
    step.mask_h = masks_h_rows_ ? layer_.mask_h.data : nullptr;
    step.dh_tilde_next = last ? nullptr : layer_.dh_tilde;
    step.gates = static_cast<const T*>(layer_.gates) + t * kGates * state;
    step.c_prev = static_cast<const T*>(layer_.c) + order.slot_before(t) * state;
    step.c = static_cast<const T*>(layer_.c) + order.slot(t) * state;
    step.dy = layer_.dy ? static_cast<const T*>(layer_.dy) + t * state : nullptr;
    // Without lengths and zoneout only the last step takes a gradient from it: dh_n.
    step.dh_carry = last || layer_.lengths || layer_.noise.zone_h.data ? layer_.dh_carry : nullptr;
    step.dc = layer_.dc;
    step.da = da;
    return step;
  }

  const LayerBackward& layer_;
  KeptRows rows_;
  std::vector<int32_t> gate_rows_;  // of [0, 4H), that are multiplied
  Weight<T> x_weight_, h_weight_;
  bool masks_h_rows_;
  int64_t steps_;  // of a chunk
  Buffer<T> da_;   // [steps,B,4H]
  WeightGradient<T> dW_ih_, dW_hh_;
};

}  // namespace

bool engine_has(Dtype dtype) {
  switch (dtype) {
    case Dtype::float64:
    case Dtype::float32: return true;
    case Dtype::bfloat16:
    case Dtype::float16: return false;
  }
  throw std::logic_error("engine_has: no such dtype");
}

void layer_forward(const LayerForward& layer) {
  switch (layer.dtype) {
    case Dtype::float64: return Forward<double>(layer).run();
    case Dtype::float32: return Forward<float>(layer).run();
    case Dtype::bfloat16:
    case Dtype::float16: break;
  }
  throw std::logic_error("layer_forward: the engine does not have this dtype");
}

void layer_backward(const LayerBackward& layer) {
  switch (layer.dtype) {
    case Dtype::float64: return Backward<double>(layer).run();
    case Dtype::float32: return Backward<float>(layer).run();
    case Dtype::bfloat16:
    case Dtype::float16: break;
  }
  throw std::logic_error("layer_backward: the engine does not have this dtype");
}

}  // namespace rnndrop::cpu
