// Two tiles of rows by a panel's two halves are four tiles of sums; two tiles of either operand are the other four.
//
// The tiles' shapes are configured, which takes as long as ten products: once for as long as the number of rows stays
// the same.
#include "cpu/amx_gemm.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <string_view>

#include "cpu/avx512.h"
#include "cpu/bfloat16_columns.h"
#include "cpu/vector_isa.h"

#if defined(RNNDROP_AVX512) && defined(__linux__) && __has_include(<amxbf16intrin.h>)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TARGET target(AVX512_ISA ",amx-tile,amx-bf16" WIDE_VECTORS)
#define KERNEL __attribute__((TARGET))
#define KERNEL_INLINE inline __attribute__((TARGET, always_inline))

namespace rnndrop::cpu::amx {
namespace {

using c10::BFloat16;

constexpr int64_t kWidth = kWidestPanel, kLanes = kWidth / 2;
constexpr int64_t kTransposedTile = kTwoTiles * kTileK;
constexpr int64_t kPanelTile = kTileK * kWidth;               // elements of a panel that one tile of rows meets
constexpr int64_t kPanelRow = 2 * kWidth * sizeof(BFloat16);  // bytes of a pair of a panel's rows

// ---------------------------------------------------------------- configuration

// Palette 1, as LDTILECFG reads it.
struct alignas(64) Shapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};
static_assert(sizeof(Shapes) == 64);

// Of this thread.
thread_local int sessions = 0;
thread_local int64_t configured_rows = 0;  // of the tiles of sums and of the first operand; 0: not configured

KERNEL void configure(int64_t rows) {
  Shapes shapes;
  for (int tile = 0; tile < 8; ++tile) {
    shapes.row_bytes[tile] = 64;
    shapes.rows[tile] = tile < 6 ? rows : kTileK / 2;
  }
  // GCC's intrinsic tells it of 8 of the 64 bytes that are read.
  asm volatile("" : : "r"(&shapes) : "memory");
  _tile_loadconfig(&shapes);
  configured_rows = rows;
}

KERNEL void release() {
  if (configured_rows == 0) return;
  _tile_release();
  configured_rows = 0;
}

// ---------------------------------------------------------------- products

// The rows of an operand: tile k of a row is at a + k * tile, row m at m * row_bytes from there.
struct Operand {
  const BFloat16* a;
  int64_t row_bytes, tile, n_tiles;
  const BFloat16* panel;
};

template <int row_tiles>
KERNEL_INLINE void add_product(const Operand& x, int64_t second_row) {
  const BFloat16 *a = x.a, *b = x.a + second_row * x.row_bytes / int64_t(sizeof(BFloat16)), *panel = x.panel;
  for (int64_t k = 0; k < x.n_tiles; ++k, a += x.tile, b += x.tile, panel += kPanelTile) {
    _tile_loadd(6, panel, kPanelRow);
    _tile_loadd(4, a, x.row_bytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, panel + kWidth, kPanelRow);
    _tile_dpbf16ps(1, 4, 7);
    if constexpr (row_tiles == 2) {
      _tile_loadd(5, b, x.row_bytes);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
}

// Where half v of row m goes, and what all rows begin from: null is 0, or with `add` what is there.
struct Halves {
  float* c;
  int64_t row_stride, half_stride;
  const float* first;
  bool add;
};

// Rows [0, R) for as many as are configured, and with two tiles as many from `second_row` on: those that are in both
// come out the same. All of c is read before any of it is written.
template <int row_tiles>
KERNEL void multiply_tiles(const Halves& out, const Operand& x, const Operand& y, int64_t second_row) {
  const int64_t row_bytes = out.row_stride * sizeof(float);
  float *c = out.c, *d = out.c + second_row * out.row_stride;
  // The intrinsics do not say that they read memory.
  asm volatile("" ::: "memory");
  if (out.first) {  // the same row for each of a tile
    _tile_loadd(0, out.first, 0);
    _tile_loadd(1, out.first + kLanes, 0);
  } else if (out.add) {
    _tile_loadd(0, c, row_bytes);
    _tile_loadd(1, c + out.half_stride, row_bytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
  }
  if constexpr (row_tiles == 2) {
    if (out.first) {
      _tile_loadd(2, out.first, 0);
      _tile_loadd(3, out.first + kLanes, 0);
    } else if (out.add) {
      _tile_loadd(2, d, row_bytes);
      _tile_loadd(3, d + out.half_stride, row_bytes);
    } else {
      _tile_zero(2);
      _tile_zero(3);
    }
  }
  add_product<row_tiles>(x, second_row);
  add_product<row_tiles>(y, second_row);
  _tile_stored(0, c, row_bytes);
  if constexpr (row_tiles == 2) _tile_stored(2, d, row_bytes);
  _tile_stored(1, c + out.half_stride, row_bytes);
  if constexpr (row_tiles == 2) _tile_stored(3, d + out.half_stride, row_bytes);
}

// As few blocks as there can be, of nearly equal size.
KERNEL void multiply_rows(Halves out, Operand x, Operand y, int64_t M) {
  for (int64_t blocks = (M + kTwoTiles - 1) / kTwoTiles; blocks > 0; --blocks) {
    const int64_t n = (M + blocks - 1) / blocks;
    const bool two = n > kTileRows;
    const int64_t rows = two ? (n + 1) / 2 : n;
    if (rows != configured_rows) configure(rows);
    if (two) {
      multiply_tiles<2>(out, x, y, n - rows);
    } else {
      multiply_tiles<1>(out, x, y, 0);
    }
    out.c += n * out.row_stride;
    x.a += n * x.row_bytes / int64_t(sizeof(BFloat16));
    y.a += n * y.row_bytes / int64_t(sizeof(BFloat16));
    M -= n;
  }
}

// The first n tiles of K, and what is left.
KERNEL_INLINE Operand take(Operand& x, int64_t n) {
  Operand taken = x;
  taken.n_tiles = n < x.n_tiles ? n : x.n_tiles;
  x.a += taken.n_tiles * x.tile;
  x.panel += taken.n_tiles * kPanelTile;
  x.n_tiles -= taken.n_tiles;
  return taken;
}

// Many rows take a panel that is larger than the first cache in pieces, which stay there for all of them. Not where a
// row's tile reaches into the next row: its sums would be overwritten before they are read again.
KERNEL void multiply(Halves out, Operand x, Operand y, int64_t M) {
  constexpr int64_t kTilesAtOnce = 16;
  const bool in_pieces = M > kTwoTiles && out.row_stride >= kLanes;
  while (in_pieces && x.n_tiles + y.n_tiles > kTilesAtOnce) {
    const Operand of_x = take(x, kTilesAtOnce), of_y = take(y, kTilesAtOnce - of_x.n_tiles);
    multiply_rows(out, of_x, of_y, M);
    out.first = nullptr;
    out.add = true;
  }
  multiply_rows(out, x, y, M);
  if (sessions == 0) release();
}

constexpr int64_t tiles_of(int64_t K) { return (K + kTileK - 1) / kTileK; }

// ---------------------------------------------------------------- transposed

// out[r] = lane r of each v.
KERNEL_INLINE void store_transposed(BFloat16* out, const __m512i (&v)[16]) {
  __m512i fours[16];  // of each four vectors in turn, lanes 0, 1, 2 and 3 of every quarter
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    const __m512i low01 = _mm512_unpacklo_epi32(v[i], v[i + 1]), high01 = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    const __m512i low23 = _mm512_unpacklo_epi32(v[i + 2], v[i + 3]), high23 = _mm512_unpackhi_epi32(v[i + 2], v[i + 3]);
    fours[i] = _mm512_unpacklo_epi64(low01, low23);
    fours[i + 1] = _mm512_unpackhi_epi64(low01, low23);
    fours[i + 2] = _mm512_unpacklo_epi64(high01, high23);
    fours[i + 3] = _mm512_unpackhi_epi64(high01, high23);
  }
#pragma GCC unroll 4
  for (int lane = 0; lane < 4; ++lane) {  // of every quarter
    const __m512i a = _mm512_shuffle_i32x4(fours[lane], fours[4 + lane], 0x88);
    const __m512i b = _mm512_shuffle_i32x4(fours[8 + lane], fours[12 + lane], 0x88);
    const __m512i c = _mm512_shuffle_i32x4(fours[lane], fours[4 + lane], 0xdd);
    const __m512i d = _mm512_shuffle_i32x4(fours[8 + lane], fours[12 + lane], 0xdd);
    _mm512_storeu_si512(out + lane * kTileK, _mm512_shuffle_i32x4(a, b, 0x88));
    _mm512_storeu_si512(out + (4 + lane) * kTileK, _mm512_shuffle_i32x4(c, d, 0x88));
    _mm512_storeu_si512(out + (8 + lane) * kTileK, _mm512_shuffle_i32x4(a, b, 0xdd));
    _mm512_storeu_si512(out + (12 + lane) * kTileK, _mm512_shuffle_i32x4(c, d, 0xdd));
  }
}

// Up to a tile's rows of out.
KERNEL void pack_columns(BFloat16* out, int64_t first, const Rows<BFloat16>& in, int64_t M, int64_t K, float* sums) {
  ColumnPairs columns = column_pairs(in, M, K);
  const __m512i row_places = _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                                                _mm512_set1_epi32(kTileK / 2));
  for (int64_t k = 0; k < K;) {
    const int64_t at = first + k;
    BFloat16* tile = out + at / kTileK * kTransposedTile;
    if (at % kTileK == 0 && k + kTileK <= K) {
      __m512i pairs[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) pairs[i] = load_columns(columns, k + 2 * i);
      store_transposed(tile, pairs);
      k += kTileK;
    } else {
      _mm512_i32scatter_epi32(tile + at % kTileK, row_places, load_columns(columns, k), 4);
      k += 2;
    }
  }
  add_sums(columns, sums);
}

// ---------------------------------------------------------------- what the processor has

bool has_instructions() {
  if (vector_isa() != std::string_view("AVX512")) return false;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  constexpr unsigned kBFloat16 = 1u << 22, kTiles = 1u << 24;
  return (d & kBFloat16) && (d & kTiles);
}

// Linux saves the tiles of a process that has asked for it alone.
bool may_use_tiles() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

}  // namespace

bool is_there() {
  static const bool there = [] {
    const char* wanted = std::getenv("RNNDROP_AMX");
    return !(wanted && std::string_view(wanted) == "0") && has_instructions() && may_use_tiles();
  }();
  return there;
}

Session::Session() { ++sessions; }
Session::~Session() {
  if (--sessions == 0) release();
}

void multiply_panel_halves(float* c, int64_t row_stride, int64_t half_stride, const float* first,
                           const Product<BFloat16>& x, const Product<BFloat16>& y, int64_t M) {
  const auto operand = [](const Product<BFloat16>& product) -> Operand {
    return {product.a.data, product.a.stride * int64_t(sizeof(BFloat16)), kTileK, tiles_of(product.K), product.panel};
  };
  multiply({c, row_stride, half_stride, first, false}, operand(x), operand(y), M);
}

void pack_transposed(BFloat16* out, int64_t first, const Rows<BFloat16>& in, int64_t M, int64_t K, float* sums) {
  for (int64_t m = 0; m < M; m += kTileRows) {
    const Rows<BFloat16> of_tile{in.data, in.stride, in.columns + m};
    pack_columns(out + m * kTileK, first, of_tile, M - m < kTileRows ? M - m : kTileRows, K, sums);
  }
}

void end_transposed(BFloat16* out, int64_t K) {
  const int64_t begin = round_up(K, 2) % kTileK;
  for (int64_t row = 0; begin > 0 && row < kTwoTiles; ++row) {
    BFloat16* of_row = out + K / kTileK * kTransposedTile + row * kTileK;
    std::fill(of_row + begin, of_row + kTileK, BFloat16(0.f));
  }
}

void multiply_transposed(float* c, int64_t ldc, const BFloat16* a, int64_t M, int64_t K, const BFloat16* panel,
                         bool add) {
  const Operand product{a, kTileK * sizeof(BFloat16), kTransposedTile, tiles_of(K), panel}, none{a, 0, 0, 0, panel};
  multiply({c, ldc, kLanes, nullptr, add}, product, none, M);
}

}  // namespace rnndrop::cpu::amx

#else

// Nothing calls these.
namespace rnndrop::cpu::amx {

using c10::BFloat16;

bool is_there() { return false; }
Session::Session() = default;
Session::~Session() = default;

#define NOT_HERE                                                     \
  {                                                                  \
    throw std::logic_error("amx_gemm: this processor has no tiles"); \
  }
void multiply_panel_halves(float*, int64_t, int64_t, const float*, const Product<BFloat16>&, const Product<BFloat16>&,
                           int64_t) NOT_HERE
    void pack_transposed(BFloat16*, int64_t, const Rows<BFloat16>&, int64_t, int64_t, float*) NOT_HERE
    void end_transposed(BFloat16*, int64_t) NOT_HERE
    void multiply_transposed(float*, int64_t, const BFloat16*, int64_t, int64_t, const BFloat16*, bool) NOT_HERE

}  // namespace rnndrop::cpu::amx

#endif
