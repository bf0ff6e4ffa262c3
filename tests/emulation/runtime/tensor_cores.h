// mma and ldmatrix. Products are summed in double and rounded once, as no tensor core does: compare with a tolerance.
//
// Fragment layouts: PTX ISA, "Matrix fragments for mma.m16n8k8" and ".m16n8k16"; g = lane / 4, t = lane % 4:
//   C, D f32   c[i]  row g + 8 (i/2)   column 2t + i%2
//   tf32 k8    a[i]  row g + 8 (i%2)   column t + 4 (i/2)            b[i]  row t + 4i            column g
//   16-bit k16 a[i]  row g + 8 (i%2)  columns 2t + 8 (i/2) + {0,1}  b[i]  rows 2t + 8i + {0,1}  column g
#pragma once

#include <cuda_fp16.h>

#include "warp.h"

namespace emu {

struct MmaOperands {
  uint32_t a[4], b[2];
};

inline float bits_to_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline double tf32_value(uint32_t bits) { return bits_to_float(bits & 0xffffe000u); }  // low 13 bits are dropped
inline double bf16_value(uint32_t pair, int high) { return bits_to_float(high ? pair & 0xffff0000u : pair << 16); }

inline double f16_value(uint32_t pair, int high) {
  const uint16_t bits = high ? pair >> 16 : pair;
  __half value;
  std::memcpy(&value, &bits, sizeof value);
  return __half2float(value);
}

// d[16,8] += A[16,depth] B[depth,8], where a_value(row, k) and b_value(k, column) read the warp's operands.
template <class A, class B>
void multiply_accumulate(float (&d)[4], int depth, A a_value, B b_value) {
  const int g = lane() / 4, t = lane() % 4;
  for (int i = 0; i < 4; i++) {
    const int row = g + 8 * (i / 2), column = 2 * t + i % 2;
    double sum = d[i];
    for (int k = 0; k < depth; k++) sum += a_value(row, k) * b_value(k, column);
    d[i] = static_cast<float>(sum);
  }
}

inline const MmaOperands* exchange_operands(const uint32_t (&a)[4], const uint32_t (&b)[2], const char* name,
                                            Caller at) {
  const MmaOperands mine{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  return reinterpret_cast<const MmaOperands*>(exchange(~0u, &mine, sizeof mine, name, at));
}

inline void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                             Caller at = Caller::here()) {
  const MmaOperands* warp = exchange_operands(a, b, "mma_m16n8k8_tf32", at);
  multiply_accumulate(  // row g of A and column g of B are held by the lanes of group g
      d, 8, [&](int row, int k) { return tf32_value(warp[row % 8 * 4 + k % 4].a[row / 8 + 2 * (k / 4)]); },
      [&](int k, int column) { return tf32_value(warp[column * 4 + k % 4].b[k / 4]); });
}

// value(pair, high) is one of the two elements in 32 bits
template <class Value>
void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Value value, const char* name,
                  Caller at) {
  const MmaOperands* warp = exchange_operands(a, b, name, at);
  multiply_accumulate(
      d, 16, [&](int row, int k) { return value(warp[row % 8 * 4 + k % 8 / 2].a[row / 8 + 2 * (k / 8)], k % 2); },
      [&](int k, int column) { return value(warp[column * 4 + k % 8 / 2].b[k / 8], k % 2); });
}

inline void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                              Caller at = Caller::here()) {
  mma_m16n8k16(d, a, b, bf16_value, "mma_m16n8k16_bf16", at);
}

inline void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                             Caller at = Caller::here()) {
  mma_m16n8k16(d, a, b, f16_value, "mma_m16n8k16_f16", at);
}

// How often shared memory is asked to give eight rows of 16 bytes: rows whose addresses differ by 128 bytes lie in the
// same banks.
EMU_UNCHECKED inline unsigned wavefronts_of(const char* const* rows) {
  constexpr int kRows = 8, kPlaces = 8;
  unsigned in_place[kPlaces] = {}, most = 0;
  for (int i = 0; i < kRows; i++) {
    bool seen = false;
    for (int k = 0; k < i; k++) seen |= rows[k] == rows[i];
    unsigned& here = in_place[reinterpret_cast<uintptr_t>(rows[i]) / 16 % kPlaces];
    if (!seen && ++here > most) most = here;
  }
  return most;
}

EMU_UNCHECKED inline void count_wavefronts(const char* const* rows, int matrices) {
  for (int j = 0; j < matrices; j++) stats.ldmatrix_wavefronts += wavefronts_of(rows + 8 * j);
}

template <int kMatrices>
void ldmatrix(uint32_t (&r)[kMatrices], const void* row, const char* name, Caller at) {
  if (reinterpret_cast<uintptr_t>(row) % 16) {
    die("ldmatrix at %s:%d: row address %p is not 16-byte aligned", at.file, at.line, row);
  }
  auto* rows = reinterpret_cast<const char* const*>(exchange(~0u, &row, sizeof row, name, at));
  if (lane() == 0) count_wavefronts(rows, kMatrices);
  for (int j = 0; j < kMatrices; j++) std::memcpy(&r[j], rows[j * 8 + lane() / 4] + lane() % 4 * 4, 4);
  sync_warp(~0u, at);  // the rows may be overwritten after this
}
inline void ldmatrix_x4(uint32_t (&r)[4], const void* row, Caller at = Caller::here()) {
  ldmatrix(r, row, "ldmatrix_x4", at);
}
// Lanes 0 to 15 name the rows; the others' addresses are not read.
inline void ldmatrix_x2(uint32_t (&r)[2], const void* row, Caller at = Caller::here()) {
  ldmatrix(r, row, "ldmatrix_x2", at);
}

inline uint32_t to_tf32(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const bool finite = (bits & 0x7f800000u) != 0x7f800000u;
  return finite ? (bits + 0x1000u) & 0xffffe000u : bits;
}

}  // namespace emu
