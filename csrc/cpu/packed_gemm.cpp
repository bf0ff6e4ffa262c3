// The kernel keeps rows x 2 vectors of sums in registers and, for each k, loads two vectors of the panel once for all
// rows: two loads and `rows` broadcasts for 2 * rows fused multiply-adds. Floor: those, 2 a cycle on most CPUs.
#include "cpu/packed_gemm.h"

#include <algorithm>
#include <array>
#include <type_traits>
#include <utility>

#include "cpu/strided_rows.h"
#include "cpu/vector_isa.h"

namespace rnndrop::cpu {
namespace {

constexpr int kVectors = 2;  // of a panel's width

// rows * kVectors sums, the panel's vectors and a broadcast have to fit into 16 registers, or AVX-512's and NEON's 32.
constexpr int kRows_baseline = kBaselineRegisters == 32 ? 12 : 6, kRows_AVX2 = 6, kRows_AVX512 = 12;

// Clang reads the elements of all IndexedRows before it multiplies one: rows * kVectors sums and as many elements as
// rows have to fit, or sums are spilled.
#ifdef __clang__
constexpr int indexed_at_once(int rows) { return rows * 2 / 3; }
#else
constexpr int indexed_at_once(int rows) { return rows; }
#endif

// An addition takes about 4 cycles and two can start in each: fewer sums than that would wait for one another.
constexpr int kSums = 8;

// Bytes from what is multiplied to what is fetched of a panel, or 0: the processor's own fetching starts anew at every
// page. On AVX2 a panel that comes from memory is multiplied with few rows up to 1.4 times as fast; from a cache as
// before (Zen 3). With AVX-512 it is many rows that gain, at a thousand units a fifth (Xeon, Zen 4), while the fetching
// for few would take longer than their product: without it they are a fifth faster (Zen 4). With NEON it was not
// measured.
template <int rows, int bytes>
constexpr int kFetchAhead = bytes == 32 || (bytes == 64 && rows > 6) ? 64 * bytes : 0;

// Where the first operand's elements are. A cursor finds those of all rows at k, which ascends by one.
template <class acc_t>
struct PlainRows {
  const acc_t* data;
  int64_t stride;

  template <int rows>
  struct Cursor {
    const PlainRows& a;
    StridedRows<acc_t, rows> next;
    INLINE explicit Cursor(const PlainRows& a) : a(a), next(a.data, a.stride) {}
    INLINE StridedRows<acc_t, rows> at(int64_t k) {
      if constexpr (rows > kMostPointers) return next.take();
      return {a.data + k, a.stride};
    }
  };
};
template <class acc_t>
struct IndexedRows {
  const acc_t* data;
  int64_t stride;
  const int32_t* columns;

  template <int rows>
  struct Cursor {
    const IndexedRows& a;
    INLINE explicit Cursor(const IndexedRows& a) : a(a) {}
    INLINE StridedRows<acc_t, rows> at(int64_t k) { return {a.data + a.columns[k], a.stride}; }
  };
};
template <class acc_t, int width>
struct TransposedRows {
  const acc_t* data;

  template <int rows>
  struct Cursor {
    const acc_t* data;
    INLINE explicit Cursor(const TransposedRows& a) : data(a.data) {}
    INLINE StridedRows<acc_t, width, false> at(int64_t k) { return {data + k * width, 1}; }
  };
};

// sums += the first `vectors` of a panel. Few have few sums, so that these are split over `chains` of every chains-th
// k.
template <int rows, int vectors, int bytes, int chains, class V, class acc_t, class A>
INLINE void add_product(V (&sums)[chains][rows][vectors], const A& a, int64_t K, const acc_t* panel) {
  using InMemory = typename Vector<acc_t, bytes>::in_memory;
  constexpr int lanes = bytes / sizeof(acc_t), width = kVectors * lanes;
  typename A::template Cursor<rows> cursor(a);
  const auto multiply_add = [&](V(&sum)[rows][vectors], int64_t k) __attribute__((always_inline)) {
    const auto of_rows = cursor.at(k);
    V b[vectors];
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) {
      b[v] = *reinterpret_cast<const InMemory*>(panel + k * width + v * lanes);
      if (rows > 1) keep_in_register(b[v]);
    }
    if constexpr (kFetchAhead<rows, bytes> > 0) {
      for (int v = 0; v < vectors * bytes; v += 64) {
        __builtin_prefetch(reinterpret_cast<const char*>(panel + k * width) + kFetchAhead<rows, bytes> + v);
      }
    }
#pragma GCC unroll 16
    for (int m = 0; m < rows; ++m) {
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) sum[m][v] += *of_rows[m] * b[v];
    }
  };
  // With one at once 8 rows take 1.06 times as long (Zen 4).
  constexpr int at_once = rows > kMostPointers ? std::max(chains, 2) : chains;
  int64_t k = 0;
  for (; k + at_once <= K; k += at_once) {
#pragma GCC unroll 4
    for (int i = 0; i < at_once; ++i) multiply_add(sums[i % chains], k + i);
  }
  for (; k < K; ++k) multiply_add(sums[0], k);
}

constexpr int chains_of(int sums) { return (kSums + sums - 1) / sums; }

// a[rows, K] panel, where a is PlainRows, IndexedRows or TransposedRows.
template <class acc_t, class A>
struct ProductOf {
  A a;
  int64_t K;
  const acc_t* panel;
};

// Where half v of row m goes, and what all rows begin from: null is 0, or with `accumulate` what is there.
template <class acc_t>
struct Halves {
  acc_t* c;
  int64_t row_stride, half_stride;
  const acc_t* first;
};

template <int rows, int vectors, int bytes, bool accumulate, class acc_t, class A>
INLINE void multiply_rows(const Halves<acc_t>& out, const ProductOf<acc_t, A>& x, const ProductOf<acc_t, A>& y) {
  using V = typename Vector<acc_t, bytes>::type;
  using InMemory = typename Vector<acc_t, bytes>::in_memory;
  constexpr int lanes = bytes / sizeof(acc_t), chains = chains_of(rows * vectors);
  V sums[chains][rows][vectors] = {};
  if (out.first) {
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) {
      const V first = *reinterpret_cast<const InMemory*>(out.first + v * lanes);
#pragma GCC unroll 16
      for (int m = 0; m < rows; ++m) sums[0][m][v] = first;
    }
  }
  add_product<rows, vectors, bytes>(sums, x.a, x.K, x.panel);
  add_product<rows, vectors, bytes>(sums, y.a, y.K, y.panel);
#pragma GCC unroll 16
  for (int m = 0; m < rows; ++m) {
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) {
      V sum = sums[0][m][v];
#pragma GCC unroll 4
      for (int chain = 1; chain < chains; ++chain) sum += sums[chain][m][v];
      InMemory& place = *reinterpret_cast<InMemory*>(out.c + m * out.row_stride + v * out.half_stride);
      place = accumulate ? place + sum : sum;
    }
  }
}

// The kernels for 1, 2 ... rows, each a function: in one for all of them GCC would run out of registers for pointers.
template <class acc_t, class A>
using RowsKernel = void (*)(const Halves<acc_t>&, const ProductOf<acc_t, A>&, const ProductOf<acc_t, A>&);
template <class Isa, int vectors, bool accumulate, class acc_t, class A, int... row>
constexpr std::array<RowsKernel<acc_t, A>, sizeof...(row)> kernels_up_to(std::integer_sequence<int, row...>) {
  return {&Isa::template multiply<row + 1, vectors, accumulate, acc_t, A>...};
}
template <class Isa, int most, int vectors, bool accumulate, class acc_t, class A>
constexpr auto kKernelsUpTo =
    kernels_up_to<Isa, vectors, accumulate, acc_t, A>(std::make_integer_sequence<int, most>());

// Rows in blocks of nearly equal size: 8 rows are 4 + 4 and not 6 + 2.
template <class Isa, int most, int vectors, class acc_t, class A>
INLINE void multiply_blocks(Halves<acc_t> out, ProductOf<acc_t, A> x, ProductOf<acc_t, A> y, int64_t M) {
  for (int64_t blocks = (M + most - 1) / most; blocks > 0; --blocks) {
    const int64_t n = (M + blocks - 1) / blocks;
    kKernelsUpTo<Isa, most, vectors, false, acc_t, A>[n - 1](out, x, y);
    out.c += n * out.row_stride;
    x.a.data += n * x.a.stride;
    y.a.data += n * y.a.stride;
    M -= n;
  }
}

template <int rows, class acc_t, class ColumnOf>
INLINE void pack_columns(acc_t* out, const Rows<acc_t>& in, int64_t M, int64_t K, acc_t* sums, const ColumnOf& column) {
  acc_t sum[rows] = {};  // apart first, so that small numbers meet small ones
  const acc_t* row = in.data;
  if (M == rows) {
    for (int64_t k = 0; k < K; ++k, row += in.stride, out += rows) {
      for (int m = 0; m < rows; ++m) sum[m] += out[m] = row[column(m)];
    }
  } else {
    for (int64_t k = 0; k < K; ++k, row += in.stride, out += rows) {
      for (int64_t m = 0; m < M; ++m) sum[m] += out[m] = row[column(m)];
    }
  }
  for (int64_t m = 0; m < M; ++m) sums[column(m)] += sum[m];
}

// Neighbours, as most are, are read as vectors.
template <int rows, class acc_t>
INLINE void pack_columns(acc_t* out, const Rows<acc_t>& in, int64_t M, int64_t K, acc_t* sums) {
  const int32_t* columns = in.columns;
  if (columns[M - 1] - columns[0] == M - 1) {
    const int64_t first = columns[0];
    pack_columns<rows>(out, in, M, K, sums, [=](int64_t m) __attribute__((always_inline)) { return first + m; });
  } else {
    pack_columns<rows>(out, in, M, K, sums, [=](int64_t m) __attribute__((always_inline)) { return columns[m]; });
  }
}

// How many bytes of a row are read at a time: AVX2 shuffles within halves of a vector, and needs twice the instructions
// across them.
template <int bytes>
constexpr int kPart = bytes == 32 ? 16 : bytes;

// Squares of n rows, next to one another in their vectors. Each round rotates the bits of (row, lane) by one: after
// log2(n) rounds they have changed places.
template <int lanes, class V, int n>
INLINE void transpose(V (&squares)[n]) {
  constexpr auto every_lane = std::make_index_sequence<lanes>();
#pragma GCC unroll 4
  for (int round = 1; round < n; round *= 2) {
    V next[n];
#pragma GCC unroll 16
    for (int i = 0; i < n / 2; ++i) {
      interleave<false, n>(next[2 * i], squares[i], squares[i + n / 2], every_lane);
      interleave<true, n>(next[2 * i + 1], squares[i], squares[i + n / 2], every_lane);
    }
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) squares[i] = next[i];
  }
}

template <class V, class Half, size_t... lane>
INLINE void join(V& out, const Half& first, const Half& second, std::index_sequence<lane...>) {
  out = __builtin_shufflevector(first, second, lane...);
}

// Parts of rows i, i + n ... of `present`; 0 where there is none.
template <int bytes, class V, class acc_t>
INLINE void load_parts(V& out, const acc_t* const* rows, int64_t present, int64_t i, int64_t k) {
  using Part = typename Vector<acc_t, kPart<bytes>>::type;
  using InMemory = typename Vector<acc_t, kPart<bytes>>::in_memory;
  constexpr int n = kPart<bytes> / sizeof(acc_t);
  const auto load = [&](Part& part, int64_t row) __attribute__((always_inline)) {
    part = row < present ? *reinterpret_cast<const InMemory*>(rows[row] + k) : Part{};
  };
  if constexpr (bytes == kPart<bytes>) {
    load(out, i);
  } else {
    Part first, second;
    load(first, i);
    load(second, i + n);
    join(out, first, second, std::make_index_sequence<2 * n>());
  }
}

template <int bytes, class acc_t>
INLINE void pack_vectors(acc_t* panel, const acc_t* const* rows, int64_t n_rows, int64_t K) {
  using V = typename Vector<acc_t, bytes>::type;
  using InMemory = typename Vector<acc_t, bytes>::in_memory;
  constexpr int lanes = bytes / sizeof(acc_t), width = kVectors * lanes, n = kPart<bytes> / sizeof(acc_t);
  for (int first = 0; first < width; first += lanes) {
    const int64_t present = std::clamp<int64_t>(n_rows - first, 0, lanes);
    const auto pack = [&](int64_t present, int64_t k) __attribute__((always_inline)) {
      V squares[n];
#pragma GCC unroll 16
      for (int i = 0; i < n; ++i) load_parts<bytes>(squares[i], rows + first, present, i, k);
      transpose<lanes>(squares);
#pragma GCC unroll 16
      for (int i = 0; i < n; ++i) *reinterpret_cast<InMemory*>(panel + (k + i) * width + first) = squares[i];
    };
    int64_t k = 0;
    if (present == lanes) {
      for (; k + n <= K; k += n) pack(lanes, k);
    } else {
      for (; k + n <= K; k += n) pack(present, k);
    }
    for (; k < K; ++k) {
      for (int i = 0; i < lanes; ++i) {
        acc_t element = 0;
        // Not read as acc_t, whose alignment a pair of bfloat16 in its place (bfloat16_gemm.cpp) has not.
        if (i < present) __builtin_memcpy(&element, rows[first + i] + k, sizeof(acc_t));
        panel[k * width + first + i] = element;
      }
    }
  }
}

template <class acc_t>
struct Kernels {
  int64_t panel_width, rows;
  void (*pack_panel)(acc_t*, const acc_t* const*, int64_t, int64_t);
  void (*pack)(acc_t*, const Rows<acc_t>&, int64_t, int64_t, acc_t*);
  // With the first vector of a panel, or both.
  struct {
    void (*multiply)(const Halves<acc_t>&, const Product<acc_t>&, const Product<acc_t>&, int64_t);
    void (*multiply_transposed)(acc_t*, int64_t, const acc_t*, int64_t, int64_t, const acc_t*, bool);
  } with_one, with_both;

  int64_t lanes() const { return panel_width / kVectors; }
  int64_t columns_multiplied(int64_t columns) const { return columns <= lanes() ? lanes() : panel_width; }
  const auto& with(int64_t columns) const { return columns_multiplied(columns) == lanes() ? with_one : with_both; }
};

template <class A, class acc_t>
INLINE ProductOf<acc_t, A> product_of(const Product<acc_t>& product, const A& a) {
  return {a, product.K, product.panel};
}

#define DEFINE_KERNELS(NAME, ATTRIBUTE)                                                                              \
  struct Isa_##NAME {                                                                                                \
    template <int rows, int vectors, bool accumulate, class acc_t, class A>                                          \
    ATTRIBUTE __attribute__((noinline)) static void multiply(const Halves<acc_t>& out, const ProductOf<acc_t, A>& x, \
                                                             const ProductOf<acc_t, A>& y) {                         \
      multiply_rows<rows, vectors, kVectorBytes_##NAME, accumulate>(out, x, y);                                      \
    }                                                                                                                \
  };                                                                                                                 \
  template <int vectors, class acc_t>                                                                                \
  void multiply_##NAME(const Halves<acc_t>& out, const Product<acc_t>& x, const Product<acc_t>& y, int64_t M) {      \
    constexpr int rows = kRows_##NAME;                                                                               \
    const Rows<acc_t>&a = x.a, &b = y.a;                                                                             \
    if (a.columns || b.columns) {                                                                                    \
      multiply_blocks<Isa_##NAME, indexed_at_once(rows), vectors>(                                                   \
          out, product_of(x, IndexedRows<acc_t>{a.data, a.stride, a.columns}),                                       \
          product_of(y, IndexedRows<acc_t>{b.data, b.stride, b.columns}), M);                                        \
    } else {                                                                                                         \
      multiply_blocks<Isa_##NAME, rows, vectors>(out, product_of(x, PlainRows<acc_t>{a.data, a.stride}),             \
                                                 product_of(y, PlainRows<acc_t>{b.data, b.stride}), M);              \
    }                                                                                                                \
  }                                                                                                                  \
  template <class acc_t>                                                                                             \
  ATTRIBUTE void pack_panel_##NAME(acc_t* panel, const acc_t* const* rows, int64_t n, int64_t K) {                   \
    pack_vectors<kVectorBytes_##NAME>(panel, rows, n, K);                                                            \
  }                                                                                                                  \
  template <class acc_t>                                                                                             \
  ATTRIBUTE void pack_##NAME(acc_t* out, const Rows<acc_t>& in, int64_t M, int64_t K, acc_t* sums) {                 \
    pack_columns<kRows_##NAME>(out, in, M, K, sums);                                                                 \
  }                                                                                                                  \
  template <int vectors, class acc_t>                                                                                \
  void multiply_transposed_##NAME(acc_t* c, int64_t ldc, const acc_t* a, int64_t M, int64_t K, const acc_t* panel,   \
                                  bool add) {                                                                        \
    constexpr int rows = kRows_##NAME;                                                                               \
    using A = TransposedRows<acc_t, rows>;                                                                           \
    const ProductOf<acc_t, A> product{{a}, K, panel}, none{{a}, 0, panel};                                           \
    const Halves<acc_t> out{c, ldc, kVectorBytes_##NAME / sizeof(acc_t), nullptr};                                   \
    if (add) return kKernelsUpTo<Isa_##NAME, rows, vectors, true, acc_t, A>[M - 1](out, product, none);              \
    kKernelsUpTo<Isa_##NAME, rows, vectors, false, acc_t, A>[M - 1](out, product, none);                             \
  }                                                                                                                  \
  template <class acc_t>                                                                                             \
  constexpr Kernels<acc_t> kernels_of_##NAME{                                                                        \
      kVectors * kVectorBytes_##NAME / sizeof(acc_t),                                                                \
      kRows_##NAME,                                                                                                  \
      pack_panel_##NAME<acc_t>,                                                                                      \
      pack_##NAME<acc_t>,                                                                                            \
      {multiply_##NAME<1, acc_t>, multiply_transposed_##NAME<1, acc_t>},                                             \
      {multiply_##NAME<kVectors, acc_t>, multiply_transposed_##NAME<kVectors, acc_t>}};

DEFINE_FOR_EVERY_ISA(DEFINE_KERNELS)

template <class acc_t>
const Kernels<acc_t>& kernels() {
  static const Kernels<acc_t>& chosen = WIDEST_OF(kernels_of_, acc_t);
  return chosen;
}

}  // namespace

template <class acc_t>
int64_t panel_width() {
  return kernels<acc_t>().panel_width;
}

template <class acc_t>
int64_t columns_multiplied(int64_t columns) {
  return kernels<acc_t>().columns_multiplied(columns);
}

template <class acc_t>
int64_t rows_at_once() {
  return kernels<acc_t>().rows;
}

template <class acc_t>
void multiply_panel(acc_t* c, int64_t ldc, const Rows<acc_t>& a, int64_t M, int64_t K, const acc_t* panel,
                    int64_t columns) {
  const Kernels<acc_t>& all = kernels<acc_t>();
  all.with(columns).multiply({c, ldc, all.lanes(), nullptr}, {a, K, panel}, {a, 0, panel}, M);
}

template <class acc_t>
void multiply_panel_halves(acc_t* c, int64_t row_stride, int64_t half_stride, const acc_t* first,
                           const Product<acc_t>& product, const Product<acc_t>& second, int64_t M) {
  kernels<acc_t>().with_both.multiply({c, row_stride, half_stride, first}, product, second, M);
}

template <class acc_t>
void pack_panel(acc_t* panel, const acc_t* const* rows, int64_t n, int64_t K) {
  kernels<acc_t>().pack_panel(panel, rows, n, K);
}

template <class acc_t>
void pack_transposed(acc_t* out, int64_t first, const Rows<acc_t>& in, int64_t M, int64_t K, acc_t* sums) {
  kernels<acc_t>().pack(out + first * rows_at_once<acc_t>(), in, M, K, sums);
}

template <class acc_t>
void multiply_transposed(acc_t* c, int64_t ldc, const acc_t* a, int64_t M, int64_t K, const acc_t* panel,
                         int64_t columns, bool add) {
  kernels<acc_t>().with(columns).multiply_transposed(c, ldc, a, M, K, panel, add);
}

template int64_t panel_width<float>();
template int64_t panel_width<double>();
template int64_t columns_multiplied<float>(int64_t);
template int64_t columns_multiplied<double>(int64_t);
template int64_t rows_at_once<float>();
template int64_t rows_at_once<double>();
template void multiply_panel(float*, int64_t, const Rows<float>&, int64_t, int64_t, const float*, int64_t);
template void multiply_panel(double*, int64_t, const Rows<double>&, int64_t, int64_t, const double*, int64_t);
template void multiply_panel_halves(float*, int64_t, int64_t, const float*, const Product<float>&,
                                    const Product<float>&, int64_t);
template void multiply_panel_halves(double*, int64_t, int64_t, const double*, const Product<double>&,
                                    const Product<double>&, int64_t);
template void pack_panel(float*, const float* const*, int64_t, int64_t);
template void pack_panel(double*, const double* const*, int64_t, int64_t);
template void pack_transposed(float*, int64_t, const Rows<float>&, int64_t, int64_t, float*);
template void pack_transposed(double*, int64_t, const Rows<double>&, int64_t, int64_t, double*);
template void multiply_transposed(float*, int64_t, const float*, int64_t, int64_t, const float*, int64_t, bool);
template void multiply_transposed(double*, int64_t, const double*, int64_t, int64_t, const double*, int64_t, bool);

}  // namespace rnndrop::cpu
