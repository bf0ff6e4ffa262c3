// The kernels are those of packed_gemm.cpp and unpacked_gemm.cpp in intrinsics, which is how a compiler is told of
// AVX512_BF16; compiled for it whatever the rest is compiled for, and called only where the processor has it.
#include "cpu/bfloat16_gemm.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string_view>

#include "cpu/amx_gemm.h"
#include "cpu/avx512.h"
#include "cpu/bfloat16_columns.h"
#include "cpu/compute_type.h"
#include "cpu/rows_of_a.h"
#include "cpu/vector_isa.h"

#ifdef RNNDROP_AVX512
#define TARGET target(AVX512_ISA ",avx512bf16,avx512vbmi2" WIDE_VECTORS)
#define KERNEL __attribute__((TARGET))
#define KERNEL_INLINE inline __attribute__((TARGET, always_inline))

namespace rnndrop::cpu {
namespace {

using c10::BFloat16;

constexpr int kLanes = 16;          // of a vector of sums; a vector of bfloat16 has as many pairs
constexpr int kWidth = 2 * kLanes;  // of a panel
// As in packed_gemm.cpp: rows * 2 sums, two vectors of a panel and a broadcast fit into 32 registers, and fewer sums
// than these would wait for one another.
constexpr int kRows = 12, kSums = 10;
static_assert(kRows <= kMostRowsAtOnce && kWidth == kWidestPanel);

KERNEL_INLINE __m512bh load_pairs(const BFloat16* data) { return (__m512bh)_mm512_loadu_si512(data); }
KERNEL_INLINE __m512bh load_pairs(const BFloat16* data, __mmask32 lanes) {
  return (__m512bh)_mm512_maskz_loadu_epi16(lanes, data);
}
KERNEL_INLINE __m512bh broadcast_pair(const BFloat16* pair) {
  int32_t bits;
  __builtin_memcpy(&bits, pair, sizeof(bits));
  return (__m512bh)_mm512_set1_epi32(bits);
}

// ---------------------------------------------------------------- packed

constexpr int chains_of(int sums) { return (kSums + sums - 1) / sums; }

// The pair k of row m is at a + m * row + k * pair.
struct Pairs {
  const BFloat16* a;
  int64_t row, pair, n;
  const BFloat16* panel;
};

template <int rows, int vectors>
KERNEL_INLINE void add_pair(__m512 (&sums)[rows][vectors], const BFloat16* a, int64_t row, const BFloat16* panel) {
  __m512bh b0 = load_pairs(panel), b1 = vectors == 2 ? load_pairs(panel + kWidth) : b0;
  keep_in_register(b0);
  keep_in_register(b1);
#pragma GCC unroll 16
  for (int m = 0; m < rows; ++m) {
    const __m512bh of_row = broadcast_pair(a + m * row);
    sums[m][0] = _mm512_dpbf16_ps(sums[m][0], of_row, b0);
    if constexpr (vectors == 2) sums[m][1] = _mm512_dpbf16_ps(sums[m][1], of_row, b1);
  }
}

// Few sums are split over `chains` of every chains-th pair.
template <int rows, int vectors, int chains>
KERNEL_INLINE void add_product(__m512 (&sums)[chains][rows][vectors], const Pairs& x) {
  const BFloat16 *a = x.a, *panel = x.panel;
  int64_t k = 0;
  for (; k + chains <= x.n; k += chains) {
#pragma GCC unroll 8
    for (int chain = 0; chain < chains; ++chain, a += x.pair, panel += 2 * kWidth) {
      add_pair<rows, vectors>(sums[chain], a, x.row, panel);
    }
  }
  for (; k < x.n; ++k, a += x.pair, panel += 2 * kWidth) add_pair<rows, vectors>(sums[0], a, x.row, panel);
}

// Where half v of row m goes, of `halves` that are wanted, and what all rows begin from: null is 0, or with
// `accumulate` what is there.
struct Halves {
  float* c;
  int64_t row_stride, half_stride;
  const float* first;
  int64_t halves;
};

template <int rows, int vectors, bool accumulate>
KERNEL_INLINE void multiply_rows(const Halves& out, const Pairs& x, const Pairs& y) {
  constexpr int chains = chains_of(rows * vectors);
  __m512 sums[chains][rows][vectors];
#pragma GCC unroll 8
  for (int chain = 0; chain < chains; ++chain) {
#pragma GCC unroll 16
    for (int m = 0; m < rows; ++m) {
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) sums[chain][m][v] = _mm512_setzero_ps();
    }
  }
  if (out.first) {
#pragma GCC unroll 16
    for (int m = 0; m < rows; ++m) {
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) sums[0][m][v] = _mm512_loadu_ps(out.first + v * kLanes);
    }
  }
  add_product<rows, vectors, chains>(sums, x);
  add_product<rows, vectors, chains>(sums, y);
#pragma GCC unroll 16
  for (int m = 0; m < rows; ++m) {
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) {
      __m512 sum = sums[0][m][v];
#pragma GCC unroll 8
      for (int chain = 1; chain < chains; ++chain) sum = _mm512_add_ps(sum, sums[chain][m][v]);
      float* place = out.c + m * out.row_stride + v * out.half_stride;
      if (accumulate) sum = _mm512_add_ps(sum, _mm512_loadu_ps(place));
      _mm512_storeu_ps(place, sum);
    }
  }
}

template <bool accumulate, int rows>
KERNEL_INLINE void multiply_up_to(int64_t n, const Halves& out, const Pairs& x, const Pairs& y) {
  if (n == rows) {
    if (out.halves == 1) return multiply_rows<rows, 1, accumulate>(out, x, y);
    return multiply_rows<rows, 2, accumulate>(out, x, y);
  }
  if constexpr (rows > 1) multiply_up_to<accumulate, rows - 1>(n, out, x, y);
}

KERNEL void multiply_panel_rows(Halves out, Pairs x, Pairs y, int64_t M) {
  for (int64_t blocks = (M + kRows - 1) / kRows; blocks > 0; --blocks) {
    const int64_t n = (M + blocks - 1) / blocks;
    multiply_up_to<false, kRows>(n, out, x, y);
    out.c += n * out.row_stride;
    x.a += n * x.row;
    y.a += n * y.row;
    M -= n;
  }
}

KERNEL void multiply_transposed_rows(const Halves& out, const BFloat16* a, int64_t M, int64_t pairs,
                                     const BFloat16* panel, bool add) {
  const Pairs product{a, 2, 2 * kRows, pairs, panel}, none{a, 0, 0, 0, panel};
  if (add) return multiply_up_to<true, kRows>(M, out, product, none);
  multiply_up_to<false, kRows>(M, out, product, none);
}

KERNEL void pack_transposed_rows(BFloat16* out, const Rows<BFloat16>& in, int64_t M, int64_t K, float* sums) {
  ColumnPairs columns = column_pairs(in, M, K);
  for (int64_t k = 0; k < K; k += 2, out += 2 * kRows) {
    _mm512_mask_storeu_epi32(out, __mmask16((1 << kRows) - 1), load_columns(columns, k));
  }
  add_sums(columns, sums);
}

KERNEL void pack_pair_of_rows(BFloat16* panel, const BFloat16* even, const BFloat16* odd, int64_t n) {
  const __mmask32 lanes = first_lanes(n);
  const __m512i a = _mm512_maskz_loadu_epi16(lanes, even);
  const __m512i b = odd ? _mm512_maskz_loadu_epi16(lanes, odd) : _mm512_setzero_si512();
  for (int half = 0; half < 2; ++half) {
    const __m512i pairs = half == 0 ? pairs_of_lanes(_mm512_castsi512_si256(a), _mm512_castsi512_si256(b))
                                    : pairs_of_lanes(_mm512_extracti64x4_epi64(a, 1), _mm512_extracti64x4_epi64(b, 1));
    _mm512_storeu_si512(panel + half * kWidth, pairs);
  }
}

// ---------------------------------------------------------------- unpacked, by rows of w

template <int rows, int blocks>
KERNEL_INLINE void by_rows(float* c, int64_t ldc, const BFloat16* a, int64_t lda, int64_t K, const BFloat16* w,
                           int64_t ldw) {
  __m512 sums[rows][blocks][2];
#pragma GCC unroll 8
  for (int m = 0; m < rows; ++m) {
#pragma GCC unroll 8
    for (int block = 0; block < blocks; ++block) sums[m][block][0] = sums[m][block][1] = _mm512_setzero_ps();
  }
  for (int64_t k = 0; k < K; k += 2, a += 2, w += 2 * ldw) {
#pragma GCC unroll 8
    for (int block = 0; block < blocks; ++block) {
      const __m512i even = _mm512_loadu_si512(w + block * kWidth), odd = _mm512_loadu_si512(w + ldw + block * kWidth);
      // Within each quarter of the vectors; their order is restored at the end.
      const __m512bh low = (__m512bh)_mm512_unpacklo_epi16(even, odd);
      const __m512bh high = (__m512bh)_mm512_unpackhi_epi16(even, odd);
#pragma GCC unroll 8
      for (int m = 0; m < rows; ++m) {
        const __m512bh of_row = broadcast_pair(a + m * lda);
        sums[m][block][0] = _mm512_dpbf16_ps(sums[m][block][0], of_row, low);
        sums[m][block][1] = _mm512_dpbf16_ps(sums[m][block][1], of_row, high);
      }
    }
  }
  // low has columns 0-3, 8-11, 16-19, 24-27, high the others.
  const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
  const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
#pragma GCC unroll 8
  for (int m = 0; m < rows; ++m) {
#pragma GCC unroll 8
    for (int block = 0; block < blocks; ++block) {
      const __m512 low = sums[m][block][0], high = sums[m][block][1];
      float* out = c + m * ldc + block * kWidth;
      _mm512_storeu_ps(out, _mm512_permutex2var_ps(low, first, high));
      _mm512_storeu_ps(out + kLanes, _mm512_permutex2var_ps(low, second, high));
    }
  }
}

template <int blocks>
KERNEL_INLINE int64_t by_rows_from(int64_t column, float* c, int64_t ldc, const BFloat16* a, int64_t lda, int64_t M,
                                   int64_t K, const BFloat16* w, int64_t ldw, int64_t n) {
  for (; column + blocks * kWidth <= n; column += blocks * kWidth) {
    int64_t m = 0;
    for (; m + 4 <= M && blocks <= 2; m += 4) {
      by_rows<4, blocks <= 2 ? blocks : 1>(c + m * ldc + column, ldc, a + m * lda, lda, K, w + column, ldw);
    }
    if (M - m == 3 && blocks <= 2) {
      by_rows<3, blocks <= 2 ? blocks : 1>(c + m * ldc + column, ldc, a + m * lda, lda, K, w + column, ldw);
      m += 3;
    }
    for (; m + 2 <= M; m += 2) by_rows<2, blocks>(c + m * ldc + column, ldc, a + m * lda, lda, K, w + column, ldw);
    if (m < M) by_rows<1, blocks>(c + m * ldc + column, ldc, a + m * lda, lda, K, w + column, ldw);
  }
  return column;
}

KERNEL void all_by_rows(float* c, int64_t ldc, const BFloat16* a, int64_t lda, int64_t M, int64_t K, const BFloat16* w,
                        int64_t ldw, int64_t n) {
  int64_t column = 0;
  if (M <= 2) column = by_rows_from<4>(column, c, ldc, a, lda, M, K, w, ldw, n);
  column = by_rows_from<2>(column, c, ldc, a, lda, M, K, w, ldw, n);
  by_rows_from<1>(column, c, ldc, a, lda, M, K, w, ldw, n);
}

// ---------------------------------------------------------------- unpacked, by columns of w^T

// rows * w_rows <= 16. Of the rows of w, n are there; the last stands in for the others. With `fetches` as many after
// them are fetched.
template <int rows, int w_rows, bool fetches>
KERNEL_INLINE void by_columns(float* c, int64_t ldc, const BFloat16* a, int64_t lda, int64_t K, const BFloat16* w,
                              int64_t ldw, int64_t n) {
  __m512 sums[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) sums[i] = _mm512_setzero_ps();
  int64_t offset[w_rows];
#pragma GCC unroll 16
  for (int r = 0; r < w_rows; ++r) offset[r] = (r < n ? r : n - 1) * ldw;
  for (int64_t k = 0; k < K; k += 2 * kLanes) {
    const __mmask32 lanes = first_lanes(K - k);
    __m512bh of_rows[rows];
#pragma GCC unroll 4
    for (int m = 0; m < rows; ++m) of_rows[m] = load_pairs(a + m * lda + k, lanes);
#pragma GCC unroll 16
    for (int r = 0; r < w_rows; ++r) {
      const __m512bh b = load_pairs(w + offset[r] + k, lanes);
      if (fetches) _mm_prefetch(w + offset[r] + w_rows * ldw + k, _MM_HINT_T1);
#pragma GCC unroll 4
      for (int m = 0; m < rows; ++m) sums[m * w_rows + r] = _mm512_dpbf16_ps(sums[m * w_rows + r], of_rows[m], b);
    }
  }
  alignas(64) float results[16];
  const __m512 result = sums_of_lanes(sums);
  if (rows == 1 && n >= w_rows && w_rows == 16) return _mm512_storeu_ps(c, result);
  _mm512_store_ps(results, result);
  for (int m = 0; m < rows; ++m) {
    for (int r = 0; r < w_rows; ++r) {
      if (r < n) c[m * ldc + r] = results[m * w_rows + r];
    }
  }
}

template <int rows, bool fetches>
KERNEL_INLINE void of_rows_by_columns(float* c, int64_t ldc, const BFloat16* a, int64_t lda, int64_t K,
                                      const BFloat16* w, int64_t ldw, int64_t n) {
  constexpr int w_rows = 16 / rows;
  for (int64_t r = 0; r < n; r += w_rows)
    by_columns<rows, w_rows, fetches>(c + r, ldc, a, lda, K, w + r * ldw, ldw, n - r);
}

// As many rows of w as stay in the first cache for all rows of a.
template <bool fetches>
KERNEL void all_by_columns(float* c, int64_t ldc, const BFloat16* a, int64_t lda, int64_t M, int64_t K,
                           const BFloat16* w, int64_t ldw, int64_t n) {
  constexpr int64_t kAtOnce = 16;
  for (int64_t r = 0; r < n; r += kAtOnce) {
    const int64_t n_rows = n - r < kAtOnce ? n - r : kAtOnce;
    int64_t m = 0;
    for (; m + 4 <= M; m += 4)
      of_rows_by_columns<4, fetches>(c + m * ldc + r, ldc, a + m * lda, lda, K, w + r * ldw, ldw, n_rows);
    for (; m + 2 <= M; m += 2)
      of_rows_by_columns<2, fetches>(c + m * ldc + r, ldc, a + m * lda, lda, K, w + r * ldw, ldw, n_rows);
    if (m < M) of_rows_by_columns<1, fetches>(c + m * ldc + r, ldc, a + m * lda, lda, K, w + r * ldw, ldw, n_rows);
  }
}

// ---------------------------------------------------------------- rows

KERNEL_INLINE __m512 low_half(__m512i a) { return widen_bfloat16(_mm512_castsi512_si256(a)); }
KERNEL_INLINE __m512 high_half(__m512i a) { return widen_bfloat16(_mm512_extracti64x4_epi64(a, 1)); }

KERNEL_INLINE __m512i multiply(__m512i a, __m512i b) {
  return (__m512i)_mm512_cvtne2ps_pbh(_mm512_mul_ps(high_half(a), high_half(b)),
                                      _mm512_mul_ps(low_half(a), low_half(b)));
}

KERNEL void copy_chosen_of_row(BFloat16* out, const BFloat16* row, const BFloat16* scale, const uint32_t* bits,
                               int64_t n) {
  for (int64_t k = 0; k < n; k += 32, ++bits) {
    const __mmask32 lanes = first_lanes(n - k);
    __m512i elements = _mm512_maskz_loadu_epi16(lanes, row + k);
    if (scale) elements = multiply(elements, _mm512_maskz_loadu_epi16(lanes, scale + k));
    _mm512_storeu_si512(out, _mm512_maskz_compress_epi16(*bits, elements));
    out += __builtin_popcount(*bits);
  }
  _mm512_storeu_si512(out, _mm512_setzero_si512());
}

// Sixteen elements from *chosen on, to where bits are set; moves on to those after them.
KERNEL_INLINE __m512 spread_vector(const float*& chosen, const BFloat16* scale, __mmask16 bits, int64_t n) {
  const int here = __builtin_popcount(bits);
  const __m512 elements = _mm512_maskz_expand_ps(bits, _mm512_maskz_loadu_ps(first_lanes(here), chosen));
  chosen += here;
  if (!scale) return elements;
  return _mm512_mul_ps(elements, widen(scale, first_lanes(n)));
}

KERNEL void spread_rounded(BFloat16* out, const float* chosen, const BFloat16* scale, const uint32_t* bits, int64_t n) {
  for (int64_t k = 0; k < n; k += kLanes) {
    const __m512 elements = spread_vector(chosen, scale ? scale + k : nullptr, bits[k / 32] >> k % 32, n - k);
    _mm256_mask_storeu_epi16(out + k, first_lanes(n - k), (__m256i)_mm512_cvtneps_pbh(elements));
  }
}

KERNEL void spread_floats(float* out, const float* chosen, const BFloat16* scale, const uint32_t* bits, int64_t n) {
  for (int64_t k = 0; k < n; k += kLanes) {
    const __m512 elements = spread_vector(chosen, scale ? scale + k : nullptr, bits[k / 32] >> k % 32, n - k);
    _mm512_mask_storeu_ps(out + k, first_lanes(n - k), elements);
  }
}

KERNEL void multiply_vectors(BFloat16* out, const BFloat16* a, const BFloat16* b, int64_t n) {
  for (int64_t k = 0; k < n; k += kLanes) {
    const __mmask16 lanes = first_lanes(n - k < kLanes ? n - k : kLanes);
    const __m512 product = _mm512_mul_ps(widen(a + k, lanes), widen(b + k, lanes));
    _mm256_mask_storeu_epi16(out + k, lanes, (__m256i)_mm512_cvtneps_pbh(product));
  }
}

void multiply_halves(const Halves& out, const Product<BFloat16>& x, const Product<BFloat16>& y, int64_t M) {
  if (amx::is_there()) return amx::multiply_panel_halves(out.c, out.row_stride, out.half_stride, out.first, x, y, M);
  const auto pairs_of = [](const Product<BFloat16>& product) -> Pairs {
    return {product.a.data, product.a.stride, 2, (product.K + 1) / 2, product.panel};
  };
  multiply_panel_rows(out, pairs_of(x), pairs_of(y), M);
}
int64_t halves_of(int64_t columns) { return columns_multiplied<BFloat16>(columns) / kLanes; }

}  // namespace

bool has_bfloat16_gemm() {
  return vector_isa() == std::string_view("AVX512") && __builtin_cpu_supports("avx512bf16") &&
         __builtin_cpu_supports("avx512vbmi2");
}

void pack_panel(BFloat16* panel, const BFloat16* const* rows, int64_t n, int64_t K) {
  // A pair is moved as one number of 32 bits.
  pack_panel(reinterpret_cast<float*>(panel), reinterpret_cast<const float* const*>(rows), n, K / 2);
  if (K % 2 != 0) {
    BFloat16* last = panel + K / 2 * 2 * kWidth;
    for (int64_t lane = 0; lane < kWidth; ++lane) {
      last[2 * lane] = lane < n ? rows[lane][K - 1] : BFloat16(0.f);
      last[2 * lane + 1] = 0.f;
    }
  }
  end_panel(panel, K);
}
void end_panel(BFloat16* panel, int64_t K) {
  const int64_t pairs = round_up(K, kTogether<BFloat16>);
  std::fill_n(panel + pairs * kWidth, (padded<BFloat16>(K) - pairs) * kWidth, BFloat16(0.f));
}

template <>
int64_t rows_at_once<BFloat16>() {
  return amx::is_there() ? amx::kTwoTiles : kRows;
}
template <>
int64_t K_at_once<BFloat16>() {
  return amx::is_there() ? amx::kTileK : kTogether<BFloat16>;
}
template <>
int64_t columns_multiplied<BFloat16>(int64_t columns) {
  return columns > kLanes || amx::is_there() ? kWidth : kLanes;
}

// Tiles take rows of a packed weight in so little time that packing is worth it for fewer.
constexpr int64_t kFewForTiles = 6;
template <>
int64_t most_rows_unpacked<BFloat16>(int64_t elements) {
  if (amx::is_there()) return kFewForTiles;
  return is_far(elements * sizeof(BFloat16)) ? 8 : 64;
}
template <>
int64_t least_rows_packed<BFloat16>() {
  return amx::is_there() ? kFewForTiles : std::numeric_limits<int64_t>::max();
}

void multiply_panel(float* c, int64_t ldc, const Rows<BFloat16>& a, int64_t M, int64_t K, const BFloat16* panel,
                    int64_t columns) {
  multiply_halves({c, ldc, kLanes, nullptr, halves_of(columns)}, {a, K, panel}, {a, 0, panel}, M);
}
void multiply_panel_halves(float* c, int64_t row_stride, int64_t half_stride, const float* first,
                           const Product<BFloat16>& x, const Product<BFloat16>& y, int64_t M) {
  multiply_halves({c, row_stride, half_stride, first, 2}, x, y, M);
}
void pack_transposed(BFloat16* out, int64_t first, const Rows<BFloat16>& in, int64_t M, int64_t K, float* sums) {
  if (amx::is_there()) return amx::pack_transposed(out, first, in, M, K, sums);
  pack_transposed_rows(out + first * kRows, in, M, K, sums);
}
void end_transposed(BFloat16* out, int64_t K) {
  if (amx::is_there()) amx::end_transposed(out, K);
}
void multiply_transposed(float* c, int64_t ldc, const BFloat16* a, int64_t M, int64_t K, const BFloat16* panel,
                         int64_t columns, bool add) {
  if (amx::is_there()) return amx::multiply_transposed(c, ldc, a, M, K, panel, add);
  multiply_transposed_rows({c, ldc, kLanes, nullptr, halves_of(columns)}, a, M, (K + 1) / 2, panel, add);
}
void multiply_by_rows(float* c, int64_t ldc, const BFloat16* a, int64_t lda, int64_t M, int64_t K, const BFloat16* w,
                      int64_t ldw, int64_t n) {
  all_by_rows(c, ldc, a, lda, M, K, w, ldw, n);
}
void multiply_by_columns(float* c, int64_t ldc, const BFloat16* a, int64_t lda, int64_t M, int64_t K, const BFloat16* w,
                         int64_t ldw, int64_t n) {
  if (is_fetched_ahead(n * K * int64_t(sizeof(BFloat16)))) {
    return all_by_columns<true>(c, ldc, a, lda, M, K, w, ldw, n);
  }
  all_by_columns<false>(c, ldc, a, lda, M, K, w, ldw, n);
}
void pack_pair(BFloat16* panel, const BFloat16* even, const BFloat16* odd, int64_t n) {
  pack_pair_of_rows(panel, even, odd, n);
}
void copy_chosen(BFloat16* out, const BFloat16* row, const BFloat16* scale, const uint32_t* bits, int64_t n) {
  copy_chosen_of_row(out, row, scale, bits, n);
}
void spread(BFloat16* out, const float* chosen, const BFloat16* scale, const uint32_t* bits, int64_t n) {
  spread_rounded(out, chosen, scale, bits, n);
}
void spread(float* out, const float* chosen, const BFloat16* scale, const uint32_t* bits, int64_t n) {
  spread_floats(out, chosen, scale, bits, n);
}
void multiply_elements(BFloat16* out, const BFloat16* a, const BFloat16* b, int64_t n) {
  multiply_vectors(out, a, b, n);
}

}  // namespace rnndrop::cpu

#else

// No compiler here knows the instruction; nothing calls these.
namespace rnndrop::cpu {

using c10::BFloat16;

bool has_bfloat16_gemm() { return false; }

template <>
int64_t rows_at_once<BFloat16>() {
  return 1;
}
template <>
int64_t K_at_once<BFloat16>() {
  return 1;
}
template <>
int64_t columns_multiplied<BFloat16>(int64_t /*columns*/) {
  return 1;
}
template <>
int64_t most_rows_unpacked<BFloat16>(int64_t /*elements*/) {
  return 0;
}
template <>
int64_t least_rows_packed<BFloat16>() {
  return 0;
}

#define NOT_HERE                                                      \
  {                                                                   \
    throw std::logic_error("bfloat16_gemm: this processor has none"); \
  }
void pack_panel(BFloat16*, const BFloat16* const*, int64_t, int64_t) NOT_HERE
    void multiply_panel(float*, int64_t, const Rows<BFloat16>&, int64_t, int64_t, const BFloat16*, int64_t) NOT_HERE
    void multiply_panel_halves(float*, int64_t, int64_t, const float*, const Product<BFloat16>&,
                               const Product<BFloat16>&, int64_t) NOT_HERE
    void pack_transposed(BFloat16*, int64_t, const Rows<BFloat16>&, int64_t, int64_t, float*) NOT_HERE
    void end_transposed(BFloat16*, int64_t) NOT_HERE
    void multiply_transposed(float*, int64_t, const BFloat16*, int64_t, int64_t, const BFloat16*, int64_t,
                             bool) NOT_HERE void multiply_by_rows(float*, int64_t, const BFloat16*, int64_t, int64_t,
                                                                  int64_t, const BFloat16*, int64_t, int64_t) NOT_HERE
    void multiply_by_columns(float*, int64_t, const BFloat16*, int64_t, int64_t, int64_t, const BFloat16*, int64_t,
                             int64_t) NOT_HERE
    void pack_pair(BFloat16*, const BFloat16*, const BFloat16*, int64_t) NOT_HERE
    void end_panel(BFloat16*, int64_t) NOT_HERE
    void copy_chosen(BFloat16*, const BFloat16*, const BFloat16*, const uint32_t*, int64_t) NOT_HERE
    void spread(BFloat16*, const float*, const BFloat16*, const uint32_t*, int64_t) NOT_HERE
    void spread(float*, const float*, const BFloat16*, const uint32_t*, int64_t) NOT_HERE
    void multiply_elements(BFloat16*, const BFloat16*, const BFloat16*, int64_t) NOT_HERE

}  // namespace rnndrop::cpu

#endif
