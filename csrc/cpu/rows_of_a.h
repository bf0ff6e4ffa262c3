// What the products that read a weight where it lies share, whether it is widened or not: how they take the rows of a.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "cpu/packed_gemm.h"
#include "cpu/vector_isa.h"

// for_each_four(M, multiply): multiply(m, n) for rows in blocks of nearly equal size, up to 4; n is an integral
// constant. Defined by each file with the attribute of its kernels, which multiply is inlined with.
#define DEFINE_FOR_EACH_FOUR(ATTRIBUTE)                               \
  template <class Multiply>                                           \
  ATTRIBUTE void for_each_four(int64_t M, const Multiply& multiply) { \
    int64_t m = 0;                                                    \
    for (int64_t blocks = (M + 3) / 4; blocks > 0; --blocks) {        \
      const int64_t n = (M - m + blocks - 1) / blocks;                \
      switch (n) {                                                    \
        case 1: multiply(m, std::integral_constant<int, 1>()); break; \
        case 2: multiply(m, std::integral_constant<int, 2>()); break; \
        case 3: multiply(m, std::integral_constant<int, 3>()); break; \
        case 4: multiply(m, std::integral_constant<int, 4>()); break; \
      }                                                               \
      m += n;                                                         \
    }                                                                 \
  }

namespace rnndrop::cpu {

// By rows of w: whether w[K, n], of so many bytes in the type that is multiplied, is read from end to end by vectors of
// `bytes`. Each four rows of a read it anew: more of them want it to be large.
template <int bytes>
bool by_whole_rows_of_w(int64_t M, int64_t bytes_of_w) {
  static_assert(bytes >= 32, "of NEON it was not measured");
  constexpr int64_t kForMany = 8 * kSecondCache;
  if (bytes == 64) return M <= 2 || bytes_of_w >= kForMany;
  return bytes_of_w >= (M <= 3 ? 0 : M == 4 ? kSecondCache : kForMany);
}
// How many of its rows are read side by side then: as many as their factors leave registers for.
template <int bytes>
constexpr int whole_rows_at_once(int rows) {
  if (bytes == 64) return rows <= 2 ? 8 : 4;
  return rows == 4 ? 2 : 4;
}

// By columns of w^T: rows of a that stay in the first cache for all of some rows of w, which stay in the second, in the
// type that is multiplied, for all of a.
constexpr int64_t kBytesOfA = 32 << 10, kBytesOfW = 256 << 10, kMostRows = 32;

// Whether rows of w^T, of so many bytes, are fetched ahead: more than stay in the second cache. The processor's own
// fetching starts anew at every page, which is where a long row is soon left: single steps of layers of a thousand
// units are up to twice as fast with ours (Zen 4). With NEON it was not measured.
inline bool is_fetched_ahead(int64_t bytes_of_w) { return bytes_of_w > kBytesOfW; }

// M <= kMostRows rows of a. Those that begin within a cache line are copied to whole ones, where n rows of w are worth
// it: those of w cannot be, and the two together would take longer to load than to multiply. `end` has the last lanes
// of the K columns of each, 0 at those that are in a whole vector.
template <class acc_t, int lanes>
struct RowsOfA {
  INLINE RowsOfA(const acc_t* a_, int64_t lda_, int64_t M, int64_t K, int64_t n, int64_t n_worth) : a(a_), lda(lda_) {
    for (int64_t m = 0; m < M; ++m) {
      for (int64_t lane = 0; lane < lanes; ++lane) {
        end[m * lanes + lane] = lane < lanes - K % lanes ? acc_t(0) : a[m * lda + K - lanes + lane];
      }
    }
    const int64_t whole = K / lanes * lanes;
    if (lda % lanes != 0 && n > n_worth && M * whole * int64_t(sizeof(acc_t)) <= kBytesOfA) {
      for (int64_t m = 0; m < M; ++m) std::copy_n(a + m * lda, whole, copies + m * whole);
      a = copies;
      lda = whole;
    }
  }
  RowsOfA(const RowsOfA&) = delete;

  const acc_t* a;
  int64_t lda;
  alignas(64) acc_t end[kMostRows * lanes];

 private:
  alignas(64) acc_t copies[kBytesOfA / sizeof(acc_t)];
};

}  // namespace rnndrop::cpu
