// The products of packed_gemm.h and unpacked_gemm.h for bfloat16, with sums in float32, on processors that multiply it.
//
// AVX512_BF16's instruction multiplies two neighbours along K at once and adds both products to one sum of float32. So
// a panel holds pairs, [K / 2, panel_width, 2], and is half as large as in float32; an odd K's last pair ends in 0.
// Floor: two instructions of 32 multiplications a cycle on AMD's processors, twice float32's; on Intel's one in two
// cycles, which is float32's, and there AMX (amx_gemm.h) takes the products with panels.
#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>

#include "cpu/packed_gemm.h"
#include "cpu/unpacked_gemm.h"

namespace rnndrop::cpu {

// Whether this processor has them. Nothing else here may be called where it has not.
bool has_bfloat16_gemm();

template <>
inline int64_t panel_width<c10::BFloat16>() {
  return 32;
}
template <>
int64_t rows_at_once<c10::BFloat16>();
template <>
int64_t K_at_once<c10::BFloat16>();

// On AMX always all of them.
template <>
int64_t columns_multiplied<c10::BFloat16>(int64_t columns);

template <>
inline int64_t unpacked_columns<c10::BFloat16>() {
  return 32;
}
template <>
inline int64_t least_unpacked_K<c10::BFloat16>() {
  return 1;
}
template <>
int64_t most_rows_unpacked<c10::BFloat16>(int64_t elements);
template <>
int64_t least_rows_packed<c10::BFloat16>();

// As in packed_gemm.h; a.columns is null.
void pack_panel(c10::BFloat16* panel, const c10::BFloat16* const* rows, int64_t n, int64_t K);
void multiply_panel(float* c, int64_t ldc, const Rows<c10::BFloat16>& a, int64_t M, int64_t K,
                    const c10::BFloat16* panel, int64_t columns);
void multiply_panel_halves(float* c, int64_t row_stride, int64_t half_stride, const float* first,
                           const Product<c10::BFloat16>& x, const Product<c10::BFloat16>& y, int64_t M);
void pack_transposed(c10::BFloat16* out, int64_t first, const Rows<c10::BFloat16>& in, int64_t M, int64_t K,
                     float* sums);
void end_transposed(c10::BFloat16* out, int64_t K);
void multiply_transposed(float* c, int64_t ldc, const c10::BFloat16* a, int64_t M, int64_t K,
                         const c10::BFloat16* panel, int64_t columns, bool add);

// As in unpacked_gemm.h; by rows K is even.
void multiply_by_rows(float* c, int64_t ldc, const c10::BFloat16* a, int64_t lda, int64_t M, int64_t K,
                      const c10::BFloat16* w, int64_t ldw, int64_t n);
void multiply_by_columns(float* c, int64_t ldc, const c10::BFloat16* a, int64_t lda, int64_t M, int64_t K,
                         const c10::BFloat16* w, int64_t ldw, int64_t n);

// Two rows of a panel, [panel_width, 2], from n <= panel_width elements of either; odd is null past the last row.
// end_panel: zeros from row K on, after the last pair.
void pack_pair(c10::BFloat16* panel, const c10::BFloat16* even, const c10::BFloat16* odd, int64_t n);
void end_panel(c10::BFloat16* panel, int64_t K);

// The elements of `row`, of n, whose bits are set, one after the other; times `scale` of n, or as they are where that
// is null. Writes 32 zeros behind them, which out has room for.
void copy_chosen(c10::BFloat16* out, const c10::BFloat16* row, const c10::BFloat16* scale, const uint32_t* bits,
                 int64_t n);
// The other way round: out[n] gets the elements of `chosen`, one after the other, where bits are set, else 0; times
// `scale` of n.
void spread(c10::BFloat16* out, const float* chosen, const c10::BFloat16* scale, const uint32_t* bits, int64_t n);
void spread(float* out, const float* chosen, const c10::BFloat16* scale, const uint32_t* bits, int64_t n);
// out = a * b
void multiply_elements(c10::BFloat16* out, const c10::BFloat16* a, const c10::BFloat16* b, int64_t n);

}  // namespace rnndrop::cpu
