// By rows of w: sums of a few rows and as many columns as fit into registers, w read in long runs of each of its rows.
// By columns of w^T: vectors along K, a few rows of w and of a at once, each sum's lanes added up at the end.
#include "cpu/unpacked_gemm.h"

#include <algorithm>
#include <limits>
#include <type_traits>
#include <utility>

#include "cpu/rows_of_a.h"
#include "cpu/vector_isa.h"

namespace rnndrop::cpu {
namespace {

// Vectors of sums: AVX-512 and NEON have 32 registers, the others 16.
constexpr int kSums_baseline = kBaselineRegisters / 2, kSums_AVX2 = 8, kSums_AVX512 = 16;

// AVX-512's runs of a row of w are four cache lines, the others' are one: each four rows of a find more in the caches,
// unless w is too large for these.
constexpr int64_t kMostUnpacked_baseline = 32, kMostUnpacked_AVX2 = 32, kMostUnpacked_AVX512 = 64;
constexpr int64_t kMostOfLarge_baseline = 32, kMostOfLarge_AVX2 = 32, kMostOfLarge_AVX512 = 24;
constexpr int64_t kMostOfFar_baseline = 32, kMostOfFar_AVX2 = 32, kMostOfFar_AVX512 = 12;

// AVX2's registers hold sums of so few rows of w that each row of a is soon loaded again. Of the other widths it was
// not measured.
constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
constexpr int64_t kLeastPacked_baseline = kNever, kLeastPacked_AVX2 = 16, kLeastPacked_AVX512 = kNever;

DEFINE_FOR_EACH_FOUR(INLINE)

// ---------------------------------------------------------------- by rows of w

template <int rows, int vectors, int bytes, class acc_t>
INLINE void by_rows(acc_t* c, int64_t ldc, const acc_t* a, int64_t lda, int64_t K, const acc_t* w, int64_t ldw) {
  using V = typename Vector<acc_t, bytes>::type;
  using InMemory = typename Vector<acc_t, bytes>::in_memory;
  constexpr int lanes = bytes / sizeof(acc_t);
  V sums[rows][vectors] = {};
  for (int64_t k = 0; k < K; ++k, ++a, w += ldw) {
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) {
      const V b = *reinterpret_cast<const InMemory*>(w + v * lanes);
#pragma GCC unroll 8
      for (int m = 0; m < rows; ++m) sums[m][v] += a[m * lda] * b;
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < rows; ++m) {
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) *reinterpret_cast<InMemory*>(c + m * ldc + v * lanes) = sums[m][v];
  }
}

// A run of columns is read once for all rows; the fewer the rows, the longer the runs.
template <int vectors, int bytes, class acc_t>
INLINE int64_t by_rows_from(int64_t column, acc_t* c, int64_t ldc, const acc_t* a, int64_t lda, int64_t M, int64_t K,
                            const acc_t* w, int64_t ldw, int64_t n) {
  constexpr int lanes = bytes / sizeof(acc_t);
  for (; column + vectors * lanes <= n; column += vectors * lanes) {
    for_each_four(M, [=](int64_t m, auto rows) __attribute__((always_inline)) {
      by_rows<rows.value, vectors, bytes>(c + m * ldc + column, ldc, a + m * lda, lda, K, w + column, ldw);
    });
  }
  return column;
}

// Few rows of c, in the first cache, while some rows of w at once are read from end to end: from a far cache or memory
// that is up to twice as fast as runs of their columns. Adds up in the order in which those do.
template <int rows, int w_rows, int bytes, class acc_t>
INLINE void by_whole_rows(acc_t* c, int64_t ldc, const acc_t* a, int64_t lda, int64_t K, const acc_t* w, int64_t ldw,
                          int64_t n) {
  using V = typename Vector<acc_t, bytes>::type;
  using InMemory = typename Vector<acc_t, bytes>::in_memory;
  constexpr int lanes = bytes / sizeof(acc_t);
  for (int m = 0; m < rows; ++m) std::fill_n(c + m * ldc, n, acc_t(0));
  const auto add = [=](int64_t k, auto at_once) __attribute__((always_inline)) {
    constexpr int n_rows = at_once.value;
    V factors[rows][n_rows];
#pragma GCC unroll 4
    for (int m = 0; m < rows; ++m) {
#pragma GCC unroll 8
      for (int r = 0; r < n_rows; ++r) factors[m][r] = V{} + a[m * lda + k + r];
    }
    for (int64_t j = 0; j < n; j += lanes) {
      V sums[rows];
#pragma GCC unroll 4
      for (int m = 0; m < rows; ++m) sums[m] = *reinterpret_cast<const InMemory*>(c + m * ldc + j);
#pragma GCC unroll 8
      for (int r = 0; r < n_rows; ++r) {
        const V b = *reinterpret_cast<const InMemory*>(w + (k + r) * ldw + j);
#pragma GCC unroll 4
        for (int m = 0; m < rows; ++m) sums[m] += factors[m][r] * b;
      }
#pragma GCC unroll 4
      for (int m = 0; m < rows; ++m) *reinterpret_cast<InMemory*>(c + m * ldc + j) = sums[m];
    }
  };
  int64_t k = 0;
  for (; k + w_rows <= K; k += w_rows) add(k, std::integral_constant<int, w_rows>());
  for (; k < K; ++k) add(k, std::integral_constant<int, 1>());
}

template <int sums, int bytes, class acc_t>
INLINE void by_rows(acc_t* c, int64_t ldc, const acc_t* a, int64_t lda, int64_t M, int64_t K, const acc_t* w,
                    int64_t ldw, int64_t n) {
  if constexpr (bytes >= 32) {
    if (by_whole_rows_of_w<bytes>(M, K * n * int64_t(sizeof(acc_t)))) {
      return for_each_four(M, [=](int64_t m, auto rows) __attribute__((always_inline)) {
        by_whole_rows<rows.value, whole_rows_at_once<bytes>(rows.value), bytes>(c + m * ldc, ldc, a + m * lda, lda, K,
                                                                                w, ldw, n);
      });
    }
  }
  int64_t column = 0;
  if (M == 1) column = by_rows_from<sums / 2, bytes>(column, c, ldc, a, lda, M, K, w, ldw, n);
  column = by_rows_from<sums / 4, bytes>(column, c, ldc, a, lda, M, K, w, ldw, n);
  if (sums / 4 > 2) by_rows_from<2, bytes>(column, c, ldc, a, lda, M, K, w, ldw, n);
}

// ---------------------------------------------------------------- by columns of w^T

template <int distance, class V, size_t... lane>
INLINE void rotate(V& out, const V& v, std::index_sequence<lane...>) {
  out = __builtin_shufflevector(v, v, ((lane + distance) % sizeof...(lane))...);
}

// v holds n sums in turn, spread over lanes / n lanes each: every lane gets all of its sum.
template <int lanes, int n, class V>
INLINE void fold(V& v) {
  if constexpr (n < lanes) {
    V rotated;
    rotate<n>(rotated, v, std::make_index_sequence<lanes>());
    v += rotated;
    fold<lanes, 2 * n>(v);
  }
}

// Lane i of out is the sum of the lanes of v[i], i < n, a power of 2. Each round halves the vectors and doubles the
// sums that one of them holds, which is fewer instructions than to add up the lanes of each.
template <int lanes, int n, int held = 1, class V>
INLINE void sums_of_lanes(V& out, const V (&v)[n]) {
  if constexpr (n == 1) {
    out = v[0];
    fold<lanes, held>(out);
  } else {
    constexpr auto every_lane = std::make_index_sequence<lanes>();
    V pairs[n / 2];
#pragma GCC unroll 4
    for (int i = 0; i < n / 2; ++i) {
      V first, second;
      interleave<false, lanes>(first, v[i], v[i + n / 2], every_lane);
      interleave<true, lanes>(second, v[i], v[i + n / 2], every_lane);
      pairs[i] = first + second;
    }
    sums_of_lanes<lanes, n / 2, 2 * held>(out, pairs);
  }
}

// The last lanes of the K columns are read as a whole vector that begins before them: both factors are 0 at what was
// counted, a's in a_end, since 0 times an infinite one is none. With `ahead` what lies so many times w_rows rows
// further on is fetched.
template <int rows, int w_rows, int bytes, int ahead, class acc_t>
INLINE void by_columns(acc_t* c, int64_t ldc, const acc_t* a, int64_t lda, const acc_t* a_end, int64_t K,
                       const acc_t* w, int64_t ldw) {
  using V = typename Vector<acc_t, bytes>::type;
  using InMemory = typename Vector<acc_t, bytes>::in_memory;
  constexpr int lanes = bytes / sizeof(acc_t);
  constexpr int per_line = 64 / bytes;
  V sums[rows][w_rows] = {};
  const auto multiply_add = [&](const acc_t* a, int64_t lda, const acc_t* w, auto load) __attribute__((always_inline)) {
    V b[w_rows];
#pragma GCC unroll 8
    for (int r = 0; r < w_rows; ++r) load(b[r], w + r * ldw);
#pragma GCC unroll 8
    for (int m = 0; m < rows; ++m) {
      const V of_row = *reinterpret_cast<const InMemory*>(a + m * lda);
#pragma GCC unroll 8
      for (int r = 0; r < w_rows; ++r) sums[m][r] += of_row * b[r];
    }
  };
  int64_t k = 0;
  const auto all = [](V& out, const acc_t* in)
                       __attribute__((always_inline)) { out = *reinterpret_cast<const InMemory*>(in); };
  for (; ahead > 0 && k + per_line * lanes <= K; k += per_line * lanes) {
#pragma GCC unroll 8
    for (int r = 0; r < w_rows; ++r) __builtin_prefetch(w + k + (r + ahead * w_rows) * ldw, 0, 2);
#pragma GCC unroll 2
    for (int i = 0; i < per_line; ++i) multiply_add(a + k + i * lanes, lda, w + k + i * lanes, all);
  }
  for (; k + lanes <= K; k += lanes) multiply_add(a + k, lda, w + k, all);
  if (k < K) {
    V lane;
    for (int i = 0; i < lanes; ++i) lane[i] = i;
    const auto is_left = lane >= V{} + acc_t(lanes - K % lanes);
    const auto left = [&](V& out, const acc_t* in) __attribute__((always_inline)) {
      out = is_left ? *reinterpret_cast<const InMemory*>(in) : V{};
    };
    multiply_add(a_end, lanes, w + K - lanes, left);
  }
#pragma GCC unroll 8
  for (int m = 0; m < rows; ++m) {
    V row;
    sums_of_lanes<lanes>(row, sums[m]);
#pragma GCC unroll 8
    for (int r = 0; r < w_rows; ++r) c[m * ldc + r] = row[r];
  }
}

// Some rows of w at once, which stay in the first cache for all rows of a.
template <int w_rows, int bytes, int ahead, class acc_t>
INLINE int64_t by_columns_from(int64_t r, acc_t* c, int64_t ldc, const acc_t* a, int64_t lda, const acc_t* a_end,
                               int64_t M, int64_t K, const acc_t* w, int64_t ldw, int64_t n) {
  constexpr int lanes = bytes / sizeof(acc_t);
  for (; r + w_rows <= n; r += w_rows) {
    for_each_four(M, [=](int64_t m, auto rows) __attribute__((always_inline)) {
      by_columns<rows.value, w_rows, bytes, ahead>(c + m * ldc + r, ldc, a + m * lda, lda, a_end + m * lanes, K,
                                                   w + r * ldw, ldw);
    });
  }
  return r;
}

// One or two rows of a have few sums with as many rows of w as more of them, which would wait for one another.
template <int rows, int w_rows, int bytes, int ahead, class acc_t>
INLINE int64_t few_by_columns_from(int64_t r, acc_t* c, int64_t ldc, const acc_t* a, int64_t lda, const acc_t* a_end,
                                   int64_t K, const acc_t* w, int64_t ldw, int64_t n) {
  for (; r + w_rows <= n; r += w_rows)
    by_columns<rows, w_rows, bytes, ahead>(c + r, ldc, a, lda, a_end, K, w + r * ldw, ldw);
  return r;
}

// Some rows of a, M <= kMostRows, times some of w.
template <int sums, int bytes, int ahead, class acc_t>
INLINE void by_columns_block(acc_t* c, int64_t ldc, const acc_t* a, int64_t lda, int64_t M, int64_t K, const acc_t* w,
                             int64_t ldw, int64_t n) {
  constexpr int lanes = bytes / sizeof(acc_t);
  const RowsOfA<acc_t, lanes> rows(a, lda, M, K, n, sums);
  // No more than the lanes that their sums come to lie in: NEON's registers would hold four rows of two lanes.
  int64_t r = 0;
  if (sums == 8 && M == 1)
    r = few_by_columns_from<1, std::min(8, lanes), bytes, ahead>(r, c, ldc, rows.a, rows.lda, rows.end, K, w, ldw, n);
  if (sums == 8 && M == 2)
    r = few_by_columns_from<2, std::min(4, lanes), bytes, ahead>(r, c, ldc, rows.a, rows.lda, rows.end, K, w, ldw, n);
  r = by_columns_from<std::min(sums / 4, lanes), bytes, ahead>(r, c, ldc, rows.a, rows.lda, rows.end, M, K, w, ldw, n);
  by_columns_from<1, bytes, 0>(r, c, ldc, rows.a, rows.lda, rows.end, M, K, w, ldw, n);
}

template <int sums, int bytes, class acc_t>
INLINE void by_columns(acc_t* c, int64_t ldc, const acc_t* a, int64_t lda, int64_t M, int64_t K, const acc_t* w,
                       int64_t ldw, int64_t n) {
  const int64_t bytes_of_row = K * sizeof(acc_t), fours = std::max<int64_t>(1, kBytesOfA / (4 * bytes_of_row));
  const int64_t a_rows = std::min(4 * fours, kMostRows), w_rows = std::max<int64_t>(sums, kBytesOfW / bytes_of_row);
  constexpr int kAhead = bytes >= 32 ? 2 : 0;
  const bool fetches = kAhead > 0 && is_fetched_ahead(n * bytes_of_row);
  for (int64_t r = 0; r < n; r += w_rows) {
    for (int64_t m = 0; m < M; m += a_rows) {
      const auto multiply = [&](auto ahead) __attribute__((always_inline)) {
        by_columns_block<sums, bytes, ahead.value>(c + m * ldc + r, ldc, a + m * lda, lda, std::min(M - m, a_rows), K,
                                                   w + r * ldw, ldw, std::min(n - r, w_rows));
      };
      if (fetches && m == 0) {  // for the other rows of a too
        multiply(std::integral_constant<int, kAhead>());
      } else {
        multiply(std::integral_constant<int, 0>());
      }
    }
  }
}

template <class acc_t>
struct Kernels {
  int64_t lanes, most_unpacked, most_of_large, most_of_far, least_packed;
  void (*by_rows)(acc_t*, int64_t, const acc_t*, int64_t, int64_t, int64_t, const acc_t*, int64_t, int64_t);
  void (*by_columns)(acc_t*, int64_t, const acc_t*, int64_t, int64_t, int64_t, const acc_t*, int64_t, int64_t);
};

#define DEFINE_PRODUCT(PRODUCT, NAME, ATTRIBUTE)                                                            \
  template <class acc_t>                                                                                    \
  ATTRIBUTE void PRODUCT##_##NAME(acc_t* c, int64_t ldc, const acc_t* a, int64_t lda, int64_t M, int64_t K, \
                                  const acc_t* w, int64_t ldw, int64_t n) {                                 \
    PRODUCT<kSums_##NAME, kVectorBytes_##NAME>(c, ldc, a, lda, M, K, w, ldw, n);                            \
  }

#define DEFINE_KERNELS(NAME, ATTRIBUTE)                                           \
  DEFINE_PRODUCT(by_rows, NAME, ATTRIBUTE)                                        \
  DEFINE_PRODUCT(by_columns, NAME, ATTRIBUTE)                                     \
  template <class acc_t>                                                          \
  constexpr Kernels<acc_t> kernels_of_##NAME{kVectorBytes_##NAME / sizeof(acc_t), \
                                             kMostUnpacked_##NAME,                \
                                             kMostOfLarge_##NAME,                 \
                                             kMostOfFar_##NAME,                   \
                                             kLeastPacked_##NAME,                 \
                                             by_rows_##NAME<acc_t>,               \
                                             by_columns_##NAME<acc_t>};

DEFINE_FOR_EVERY_ISA(DEFINE_KERNELS)

template <class acc_t>
const Kernels<acc_t>& kernels() {
  static const Kernels<acc_t>& chosen = WIDEST_OF(kernels_of_, acc_t);
  return chosen;
}

}  // namespace

template <class acc_t>
int64_t unpacked_columns() {
  return 2 * kernels<acc_t>().lanes;
}

template <class acc_t>
int64_t least_unpacked_K() {
  return kernels<acc_t>().lanes;
}

template <class acc_t>
int64_t most_rows_unpacked(int64_t elements) {
  const Kernels<acc_t>& of_isa = kernels<acc_t>();
  const int64_t bytes = elements * sizeof(acc_t);
  return is_far(bytes) ? of_isa.most_of_far : is_large(bytes) ? of_isa.most_of_large : of_isa.most_unpacked;
}
template <class acc_t>
int64_t least_rows_packed() {
  return kernels<acc_t>().least_packed;
}

template <class acc_t>
void multiply_by_rows(acc_t* c, int64_t ldc, const acc_t* a, int64_t lda, int64_t M, int64_t K, const acc_t* w,
                      int64_t ldw, int64_t n) {
  kernels<acc_t>().by_rows(c, ldc, a, lda, M, K, w, ldw, n);
}

template <class acc_t>
void multiply_by_columns(acc_t* c, int64_t ldc, const acc_t* a, int64_t lda, int64_t M, int64_t K, const acc_t* w,
                         int64_t ldw, int64_t n) {
  kernels<acc_t>().by_columns(c, ldc, a, lda, M, K, w, ldw, n);
}

template int64_t unpacked_columns<float>();
template int64_t unpacked_columns<double>();
template int64_t least_unpacked_K<float>();
template int64_t least_unpacked_K<double>();
template int64_t most_rows_unpacked<float>(int64_t);
template int64_t most_rows_unpacked<double>(int64_t);
template int64_t least_rows_packed<float>();
template int64_t least_rows_packed<double>();
#define INSTANTIATE(PRODUCT, acc_t) \
  template void PRODUCT(acc_t*, int64_t, const acc_t*, int64_t, int64_t, int64_t, const acc_t*, int64_t, int64_t);
INSTANTIATE(multiply_by_rows, float)
INSTANTIATE(multiply_by_rows, double)
INSTANTIATE(multiply_by_columns, float)
INSTANTIATE(multiply_by_columns, double)
#undef INSTANTIATE

}  // namespace rnndrop::cpu
