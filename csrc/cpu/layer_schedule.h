// In what portions the engine takes a layer: chunks of steps, blocks of rows, and what each thread owns.
//
// The sizes were measured; each says what it is weighed against.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/amx_gemm.h"
#include "cpu/buffer.h"
#include "cpu/compute_type.h"
#include "cpu/packed_gemm.h"
#include "cpu/step_kernels.h"
#include "cpu/threads.h"
#include "params.h"

namespace rnndrop::cpu {

template <class T>
bool has_large_W_hh(const LayerProblem& layer) {
  return is_large(kGates * layer.H * layer.P * sizeof(T));
}

// Rows that go through GEMM and step kernel together, so that what one leaves is in the first cache for the other. Of a
// weight that comes more slowly than it is multiplied, each panel has to serve more rows: with AVX-512 a large one, on
// AMX any.
template <class T>
int64_t row_block(const LayerProblem& layer) {
  if (amx::multiplies<T>()) return 128;
  return rows_at_once<T>() >= 12 && has_large_W_hh<T>(layer) ? 96 : 24;
}
// The last block of a walk has up to a quarter more: a few rows by themselves would cost another reading of W_hh.
constexpr int64_t most_rows_of_walk(int64_t block) { return block + block / 4; }
constexpr int64_t kMostRowBlock = most_rows_of_walk(128);
// Rows of the input GEMM and of the weights' gradients that are taken together: enough to read W_ih seldom, few enough
// for their gates to stay in the second cache.
constexpr int64_t kChunkRows = 384;
// Fewer multiplications than this are not worth waking the other threads for.
constexpr int64_t kEnoughForSeveral = 1 << 19;
// Threads with so many rows of the batch each would gain nothing by sharing out the units instead.
constexpr int64_t kEnoughRowsOfThread = 6;
// Multiplications in the time that a barrier takes for each thread that comes to it. Measured with two, on AVX2; AMX
// makes more of them in that time.
constexpr int64_t kBarrierOfThread = 1 << 13;

// A weight of which a mask drops columns is not packed for so few rows times the share that it drops.
constexpr int64_t kTooFewToLeaveOut = 5;

// The order of time cut into pieces of `steps` steps: work(begin, n) gets each as a range of the time axis.
template <class Work>
void for_each_chunk(const TimeOrder& order, int64_t steps, const Work& work) {
  for (int64_t done = 0; done < order.T; done += steps) {
    const int64_t n = std::min(steps, order.T - done);
    work(order.reverse ? order.T - done - n : done, n);
  }
}

// Some of these steps, [begin, begin + n), cut further.
template <class Work>
void for_each_piece(const TimeOrder& order, int64_t begin, int64_t n, int64_t steps, const Work& work) {
  for_each_chunk({n, order.reverse}, steps, [&](int64_t first, int64_t count) { work(begin + first, count); });
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

// One reading of a member's share of W_hh, panel by panel; the recurrence needs one a step and block of rows.
//
// Every other walk goes back. A share that does not fit the second cache would, always read from its first panel on,
// lose each of them there just before it is wanted again; a walk back begins with what the walk before read last.
struct Walk {
  bool back = false;
  // work(i) for n panels, or for n portions of some panels.
  template <class Work>
  void for_each(int64_t n, const Work& work) const {
    for (int64_t i = 0; i < n; ++i) work(back ? n - 1 - i : i);
  }
};

// Rows in blocks at step t: work(first, n, walk).
template <class Work>
void for_each_walk(int64_t t, const Range& rows, int64_t block, const Work& work) {
  const int64_t beyond_most = std::max<int64_t>(rows.size() - most_rows_of_walk(block), 0);
  const int64_t walks_a_step = 1 + (beyond_most + block - 1) / block;
  for (int64_t i = 0; i < walks_a_step && rows.size() > 0; ++i) {
    const int64_t r = rows.begin + i * block;
    work(r, i + 1 < walks_a_step ? block : rows.end - r, Walk{(t * walks_a_step + i) % 2 != 0});
  }
}

// Steps of a sequence of `rows` samples that are taken together.
inline int64_t steps_per_chunk(const LayerProblem& layer, int64_t rows) {
  return std::clamp<int64_t>(kChunkRows / std::max<int64_t>(rows, 1), 1, layer.T);
}

inline bool enough_for_several(const LayerProblem& layer) {
  return layer.T * layer.B * kGates * layer.H * (layer.I + layer.P) > kEnoughForSeveral;
}

// In the forward each of these rows pays for its sums across vectors, a packed weight for its K columns, as far as the
// weight is then read again from a cache. Most of all where `at_once` of them are multiplied at a time: at each reading
// rows of an unpacked weight begin within cache lines again, and are widened again.
template <class T>
bool too_few_to_pack_forward(int64_t rows, int64_t at_once, int64_t K) {
  // Tiles take rows of a packed weight in so little time that packing is most of the work.
  if (amx::multiplies<T>()) return (rows - 4) * 80 <= K;
  constexpr int64_t kMostColumns = 640;
  const int64_t pays = at_once > 4 && at_once < rows ? 16 : 9;
  return rows * pays <= std::min(K, kMostColumns);
}

// How long a step's products with `columns` of the weights take, in multiplications, where n threads share out the
// batch: each reads all of them, which takes as long as another row.
inline int64_t step_by_rows(const LayerProblem& layer, int64_t columns, int64_t n) {
  return kGates * layer.H * columns * ((layer.B + n - 1) / n + 1);
}
// The same where they share out the units, so many at least at a time, and wait for each other.
inline int64_t step_by_units(const LayerProblem& layer, int64_t columns, int64_t n, int64_t at_once, int64_t barrier) {
  const int64_t of_thread = (layer.H + n * at_once - 1) / (n * at_once) * at_once;
  return kGates * std::min(layer.H, of_thread) * columns * layer.B + n * barrier;
}
// Whether n threads share out the batch; else the units.
template <class T>
bool splits_rows(const LayerProblem& layer, int64_t columns, int64_t n, int64_t at_once) {
  const int64_t barrier = (amx::multiplies<T>() ? 4 : 1) * kBarrierOfThread;
  const int64_t by_units = step_by_units(layer, columns, n, at_once, barrier);
  return layer.B >= n * kEnoughRowsOfThread || step_by_rows(layer, columns, n) <= by_units;
}

// Whether the two directions of a layer are better run at once, by a thread each, than one after the other by n: a
// thread for each needs no barrier, packs and reads half of the weights, and multiplies all rows together. Not where
// both W_hh, which are then read at once in every step, are more than the third cache may hold; nor for a single step,
// which reads them once.
inline bool runs_directions_at_once(const LayerProblem& layer, int64_t n) {
  constexpr int64_t kMostElements = 3 << 18;  // of a W_hh
  const int64_t columns = layer.I + layer.P;
  const int64_t by_units = step_by_units(layer, columns, n, kVectorUnits, kBarrierOfThread);
  const int64_t of_one = std::min(step_by_rows(layer, columns, n), by_units);
  const bool is_for_two = n == 2 || step_by_rows(layer, columns, 1) <= 2 * of_one;
  return n > 1 && layer.T > 1 && kGates * layer.H * layer.P <= kMostElements && is_for_two && enough_for_several(layer);
}

// How a member's share of the backward's recurrence is cut: all units of some rows, or some units of all rows. Columns
// are those of h, which are in its panels of W_hh; without a projection they are the units too.
struct Cut {
  bool by_rows;
  Range rows, units, columns, panels;
};

}  // namespace rnndrop::cpu
