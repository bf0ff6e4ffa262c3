#include "cpu/kept_columns.h"

#include <algorithm>
#include <utility>

#include "cpu/vector_isa.h"

namespace rnndrop::cpu {
namespace {

// A weight's rows are read from memory one after the other, but in calls too short for the hardware to run far ahead.
constexpr int64_t kAhead = 4096;

template <class T>
using Index = typename KeptColumns<T>::Index;

// Some rows of one array to those of another, n vectors each.
template <class T>
struct Move {
  const T* in;
  int64_t in_stride;
  T* out;
  int64_t out_stride;
  int64_t M, n;
  const T* mask;
  const int32_t *begins, *first_kept;
  const Index<T>* lanes;
};

// out[lane] = v[from[lane]]
template <class V, class I>
INLINE void permute(V& out, const V& v, const I& from) {
#if defined(__clang__)
  // Which it knows to be one instruction.
  const V in = v;
#pragma GCC unroll 16
  for (size_t lane = 0; lane < sizeof(V) / sizeof(v[0]); ++lane) out[lane] = in[from[lane]];
#else
  out = __builtin_shuffle(v, from);
#endif
}

template <int bytes, class T>
INLINE void gather(const Move<T> move) {
  using V = typename Vector<T, bytes>::type;
  using I = typename Vector<Index<T>, bytes>::type;
  using InMemory = typename Vector<T, bytes>::in_memory;
  using IndicesInMemory = typename Vector<Index<T>, bytes>::in_memory;
  constexpr int lanes = bytes / sizeof(T);
  for (int64_t m = 0; m < move.M; ++m) {
    const T* in = move.in + m * move.in_stride;
    T* out = move.out + m * move.out_stride;
    for (int64_t v = 0; v < move.n; ++v) {
      __builtin_prefetch(in + move.begins[v] + kAhead / sizeof(T));
      V of_row = *reinterpret_cast<const InMemory*>(in + move.begins[v]);
      if (move.mask) of_row *= *reinterpret_cast<const InMemory*>(move.mask + move.begins[v]);
      const I from = *reinterpret_cast<const IndicesInMemory*>(move.lanes + v * lanes);
      permute(of_row, of_row, from);
      *reinterpret_cast<InMemory*>(out + move.first_kept[v]) = of_row;
    }
  }
}

template <int bytes, class T>
INLINE void scatter(const Move<T> move) {
  using V = typename Vector<T, bytes>::type;
  using I = typename Vector<Index<T>, bytes>::type;
  using InMemory = typename Vector<T, bytes>::in_memory;
  using IndicesInMemory = typename Vector<Index<T>, bytes>::in_memory;
  constexpr int lanes = bytes / sizeof(T);
  for (int64_t m = 0; m < move.M; ++m) {
    const T* in = move.in + m * move.in_stride;
    T* out = move.out + m * move.out_stride;
    for (int64_t v = 0; v < move.n; ++v) {
      const I from = *reinterpret_cast<const IndicesInMemory*>(move.lanes + v * lanes), kept = from >= 0;
      V of_row = *reinterpret_cast<const InMemory*>(in + move.first_kept[v]);
      permute(of_row, of_row, from & kept);
      of_row = reinterpret_cast<V>(reinterpret_cast<I>(of_row) & kept);
      if (move.mask) of_row *= *reinterpret_cast<const InMemory*>(move.mask + move.begins[v]);
      *reinterpret_cast<InMemory*>(out + move.begins[v]) = of_row;
    }
  }
}

template <class T>
struct Kernels {
  int64_t lanes;
  void (*gather)(const Move<T>&);
  void (*scatter)(const Move<T>&);
};

#define DEFINE_KERNELS(NAME, ATTRIBUTE)                \
  template <class T>                                   \
  ATTRIBUTE void gather_##NAME(const Move<T>& move) {  \
    gather<kVectorBytes_##NAME>(move);                 \
  }                                                    \
  template <class T>                                   \
  ATTRIBUTE void scatter_##NAME(const Move<T>& move) { \
    scatter<kVectorBytes_##NAME>(move);                \
  }                                                    \
  template <class T>                                   \
  constexpr Kernels<T> kernels_of_##NAME{kVectorBytes_##NAME / sizeof(T), gather_##NAME<T>, scatter_##NAME<T>};

DEFINE_FOR_EVERY_ISA(DEFINE_KERNELS)

template <class T>
const Kernels<T>& kernels() {
  static const Kernels<T>& chosen = WIDEST_OF(kernels_of_, T);
  return chosen;
}

}  // namespace

template <class T>
KeptColumns<T>::KeptColumns(int64_t columns, std::vector<int32_t> kept) : columns_(columns), kept_(std::move(kept)) {
  const int64_t lanes = kernels<T>().lanes, n = columns < lanes ? 0 : (columns + lanes - 1) / lanes;
  begins_.resize(n);
  first_kept_.resize(n);
  gathered_from_.resize(n * lanes);
  scattered_from_.assign(n * lanes, -1);
  auto first = kept_.begin();
  for (int64_t v = 0; v < n; ++v) {
    const int64_t begin = std::min(v * lanes, columns - lanes);
    while (first != kept_.begin() && first[-1] >= begin) --first;
    begins_[v] = begin;
    first_kept_[v] = first - kept_.begin();
    for (int64_t k = 0; first != kept_.end() && *first < begin + lanes; ++first, ++k) {
      gathered_from_[v * lanes + k] = *first - begin;
      scattered_from_[v * lanes + *first - begin] = k;
    }
  }
}

template <class T>
int64_t KeptColumns<T>::room() const {
  return kept_.size() + kernels<T>().lanes;
}

template <class T>
void KeptColumns<T>::gather(const T* rows, int64_t stride, int64_t M, const T* mask, T* out, int64_t out_stride) const {
  if (!begins_.empty()) {
    return kernels<T>().gather({rows, stride, out, out_stride, M, int64_t(begins_.size()), mask, begins_.data(),
                                first_kept_.data(), gathered_from_.data()});
  }
  for (int64_t m = 0; m < M; ++m, rows += stride, out += out_stride) {  // a row shorter than a vector
    for (size_t k = 0; k < kept_.size(); ++k) out[k] = mask ? rows[kept_[k]] * mask[kept_[k]] : rows[kept_[k]];
  }
}

template <class T>
void KeptColumns<T>::scatter(const T* gathered, int64_t stride, int64_t M, const T* mask, T* out,
                             int64_t out_stride) const {
  if (!begins_.empty()) {
    return kernels<T>().scatter({gathered, stride, out, out_stride, M, int64_t(begins_.size()), mask, begins_.data(),
                                 first_kept_.data(), scattered_from_.data()});
  }
  for (int64_t m = 0; m < M; ++m, gathered += stride, out += out_stride) {
    std::fill_n(out, columns_, T(0));
    for (size_t k = 0; k < kept_.size(); ++k) out[kept_[k]] = mask ? gathered[k] * mask[kept_[k]] : gathered[k];
  }
}

template class KeptColumns<float>;
template class KeptColumns<double>;

}  // namespace rnndrop::cpu
