// AMX on a processor without, for tests: included before every source of the engine by system/test_amx.py and
// system/test_avx512.py. Shapes that the instructions refuse end the program, as there.
#pragma once

#include <cpuid.h>
#include <immintrin.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace amx_emulation {

struct Tile {
  int rows = 0, row_bytes = 0;
  uint8_t data[16][64];
};
inline thread_local Tile tiles[8];

inline void expect(bool right, const char* instruction) {
  if (right) return;
  std::fprintf(stderr, "%s: the tiles are not configured for that\n", instruction);
  std::abort();
}

// By hand, since what reads them is told of no alignment.
inline void load_config(const void* config) {
  const uint8_t* bytes = static_cast<const uint8_t*>(config);
  expect(bytes[0] == 1 && bytes[1] == 0, "ldtilecfg");
  for (int t = 0; t < 8; ++t) {
    uint16_t row_bytes;
    std::memcpy(&row_bytes, bytes + 16 + 2 * t, 2);
    expect(row_bytes <= 64 && bytes[48 + t] <= 16, "ldtilecfg");
    tiles[t] = Tile{};
    tiles[t].rows = bytes[48 + t];
    tiles[t].row_bytes = row_bytes;
  }
}
inline void release() {
  for (Tile& tile : tiles) tile = Tile{};
}
inline void zero(int t) {
  expect(tiles[t].rows > 0, "tilezero");
  std::memset(tiles[t].data, 0, sizeof tiles[t].data);
}
inline void load(int t, const void* from, int64_t stride) {
  zero(t);
  for (int r = 0; r < tiles[t].rows; ++r) {
    std::memcpy(tiles[t].data[r], static_cast<const uint8_t*>(from) + r * stride, tiles[t].row_bytes);
  }
}
inline void store(int t, void* to, int64_t stride) {
  expect(tiles[t].rows > 0, "tilestored");
  for (int r = 0; r < tiles[t].rows; ++r) {
    std::memcpy(static_cast<uint8_t*>(to) + r * stride, tiles[t].data[r], tiles[t].row_bytes);
  }
}

template <class T>
T element(const Tile& tile, int row, int k) {
  T value;
  std::memcpy(&value, tile.data[row] + k * sizeof value, sizeof value);
  return value;
}
inline float widened(uint16_t bits) {
  const uint32_t wide = uint32_t(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return std::fpclassify(value) == FP_SUBNORMAL ? 0.f : value;
}
inline void multiply(int c, int a, int b) {
  Tile& sums = tiles[c];
  expect(sums.rows > 0 && sums.rows == tiles[a].rows && sums.row_bytes == tiles[b].row_bytes &&
             tiles[a].row_bytes == 4 * tiles[b].rows,
         "tdpbf16ps");
  for (int m = 0; m < sums.rows; ++m) {
    for (int n = 0; n < sums.row_bytes / 4; ++n) {
      float sum = element<float>(sums, m, n);
      for (int k = 0; k < 2 * tiles[b].rows; ++k) {
        sum += widened(element<uint16_t>(tiles[a], m, k)) * widened(element<uint16_t>(tiles[b], k / 2, 2 * n + k % 2));
      }
      std::memcpy(sums.data[m] + 4 * n, &sum, sizeof sum);
    }
  }
}

inline int processor_has_tiles() { return std::getenv("EMULATES_AMX") != nullptr; }

}  // namespace amx_emulation

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#define _tile_loadconfig amx_emulation::load_config
#define _tile_release amx_emulation::release
#define _tile_zero amx_emulation::zero
#define _tile_loadd amx_emulation::load
#define _tile_stored amx_emulation::store
#define _tile_dpbf16ps amx_emulation::multiply

// What the engine asks the processor and the system.
#define __get_cpuid_count(leaf, of_leaf, a, b, c, d) (*(d) = amx_emulation::processor_has_tiles() ? ~0u : 0u, 1)
#define syscall(...) 0
