// The columns that a mask keeps, of rows: gathered without gaps, and put back where they were.
//
// Cost: a load, a permutation and a store for each vector of a row, kept or not.
#pragma once

#include <cstdint>
#include <type_traits>
#include <vector>

namespace rnndrop::cpu {

template <class T>
class KeptColumns {
 public:
  KeptColumns() = default;
  // kept: some of [0, columns), in order.
  KeptColumns(int64_t columns, std::vector<int32_t> kept);

  // Elements that a gathered row has to have room for; those past its last column get any value.
  int64_t room() const;
  // out[m, k] = row[m, kept[k]] * mask[kept[k]] of M rows; mask [columns] may be null.
  void gather(const T* rows, int64_t stride, int64_t M, const T* mask, T* out, int64_t out_stride) const;
  // out[m, kept[k]] = gathered[m, k] * mask[kept[k]], and 0 in the other columns.
  void scatter(const T* gathered, int64_t stride, int64_t M, const T* mask, T* out, int64_t out_stride) const;

  using Index = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;

 private:
  int64_t columns_ = 0;
  std::vector<int32_t> kept_;
  // A row in vectors. The last begins before the one before it ends where the row's length is no multiple.
  std::vector<int32_t> begins_, first_kept_;           // of each: its column, and the kept columns before it
  std::vector<Index> gathered_from_, scattered_from_;  // of each lane: a lane; -1 where a column is dropped
};

}  // namespace rnndrop::cpu
