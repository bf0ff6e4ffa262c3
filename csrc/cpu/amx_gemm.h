// The packed products of bfloat16_gemm.h on AMX: tiles of 16 rows of 64 bytes, and an instruction that multiplies two.
//
// Panels are those of AVX512_BF16, whose pairs of rows are what a tile of the second operand consists of; K is filled
// up with zeros to whole tiles, in both operands. Floor: 16 cycles for 16 * 16 * 32 multiplications, sixteen times
// float32's; half of that for 8 rows or fewer, whose time does not fall any further.
#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>
#include <type_traits>

#include "cpu/packed_gemm.h"

namespace rnndrop::cpu::amx {

// Rows of a tile, and of two, which are multiplied at once; and K of one, a multiple of which rows and panels are
// padded to.
inline constexpr int64_t kTileRows = 16, kTwoTiles = 2 * kTileRows, kTileK = 32;

// Whether this processor has it and the system lets this process use it. Nothing else here may be called otherwise.
// RNNDROP_AMX=0 in the environment of a process says no.
bool is_there();

// Whether T's products with panels are these.
template <class T>
bool multiplies() {
  return std::is_same_v<T, c10::BFloat16> && is_there();
}

// While one lives on a thread, its products leave the tiles configured for the next. Where there is no AMX it does
// nothing.
class Session {
 public:
  Session();
  ~Session();
  Session(const Session&) = delete;
};

// As in packed_gemm.h.
void multiply_panel_halves(float* c, int64_t row_stride, int64_t half_stride, const float* first,
                           const Product<c10::BFloat16>& x, const Product<c10::BFloat16>& y, int64_t M);

// out is [K / kTileK, kTwoTiles, kTileK].
void pack_transposed(c10::BFloat16* out, int64_t first, const Rows<c10::BFloat16>& in, int64_t M, int64_t K,
                     float* sums);
void end_transposed(c10::BFloat16* out, int64_t K);
void multiply_transposed(float* c, int64_t ldc, const c10::BFloat16* a, int64_t M, int64_t K,
                         const c10::BFloat16* panel, bool add);

}  // namespace rnndrop::cpu::amx
