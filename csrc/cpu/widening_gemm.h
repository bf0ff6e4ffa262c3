// The products of unpacked_gemm.h for weights of a 16-bit type that are widened to float32 as they are read.
#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cstdint>

namespace rnndrop::cpu {

// Whether there are kernels for this processor: those below may be called only then.
bool has_widening_gemm();

void multiply_by_rows(float* c, int64_t ldc, const float* a, int64_t lda, int64_t M, int64_t K, const c10::BFloat16* w,
                      int64_t ldw, int64_t n);
void multiply_by_rows(float* c, int64_t ldc, const float* a, int64_t lda, int64_t M, int64_t K, const c10::Half* w,
                      int64_t ldw, int64_t n);
void multiply_by_columns(float* c, int64_t ldc, const float* a, int64_t lda, int64_t M, int64_t K,
                         const c10::BFloat16* w, int64_t ldw, int64_t n);
void multiply_by_columns(float* c, int64_t ldc, const float* a, int64_t lda, int64_t M, int64_t K, const c10::Half* w,
                         int64_t ldw, int64_t n);

}  // namespace rnndrop::cpu
