// Which rows of the batch a step multiplies, where sequences end at times of their own.
//
// Past its end a row needs no product: the cell carries its state, and its gradients are 0. Rows are multiplied from
// the first to the last that still runs, so that a batch in descending order of length costs its own steps and no
// others; in another order it costs more, and comes out the same.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/buffer.h"
#include "cpu/threads.h"
#include "params.h"

namespace rnndrop::cpu {

class RunningRows {
 public:
  explicit RunningRows(const LayerProblem& layer)
      : lengths_(layer.lengths), B_(layer.B), steps_from_(layer.lengths ? layer.B + 1 : 0) {
    if (!lengths_) return;
    int64_t longest = 0;
    steps_from_.data()[B_] = 0;
    for (int64_t b = B_ - 1; b >= 0; --b) {
      longest = std::max(longest, lengths_[b]);
      steps_from_.data()[b] = steps_from_.data()[b + 1] + longest;
    }
  }

  // Of rows [b, b + n) at step t, how many are multiplied.
  int64_t of(int64_t t, int64_t b, int64_t n) const {
    while (lengths_ && n > 0 && t >= lengths_[b + n - 1]) --n;
    return n;
  }

  // The rows of steps from `begin` on, which lie step after step: work(first, n, ended) for parts [first, first +
  // n), each with n rows that are multiplied and after them those that are not.
  template <class Work>
  void for_each_part(int64_t begin, const Range& rows, const Work& work) const {
    if (!lengths_) return work(rows.begin, rows.size(), int64_t{0});
    int64_t first = rows.begin;
    for (int64_t r = rows.begin, n; r < rows.end; r += n) {
      const int64_t b = r % B_;
      n = std::min(rows.end - r, B_ - b);
      const int64_t running = of(begin + r / B_, b, n);
      if (running == n && r + n < rows.end) continue;
      work(first, r + running - first, n - running);
      first = r + n;
    }
  }

  // A member's part of the batch: as many steps as the others', not as many rows.
  Range share(const Team& team) const {
    if (!lengths_ || steps_from_.data()[0] == 0) return team.share(B_);
    return {place_of(team.rank, team.size), place_of(team.rank + 1, team.size)};
  }

 private:
  // The first row that leaves the first `rank` of `size` members their part.
  int64_t place_of(int64_t rank, int64_t size) const {
    const int64_t all = steps_from_.data()[0], *after = steps_from_.data();
    if (rank == size) return B_;
    // Steps of rows from b on fall from b to b.
    return std::partition_point(after, after + B_, [&](int64_t steps) { return steps * size > all * (size - rank); }) -
           after;
  }

  const int64_t* lengths_;  // [B] or null
  int64_t B_;
  // Of each row, the steps of it and of all after it, each as long as the longest from there on: what of() makes of
  // them. One more, 0, at the end.
  Buffer<int64_t> steps_from_;
};

}  // namespace rnndrop::cpu
