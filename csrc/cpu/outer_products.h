// A weight's gradient that is made of very few rows: to write it is all the work, and it is written from end to end.
#pragma once

#include <cstdint>

namespace rnndrop::cpu {

// With more rows tiles of the gradient, whose sums stay in registers, are as fast (AVX2).
constexpr int64_t kMostOuterProducts = 3;

// out[M, columns] = sum over r < n of a_r[M] b_r[columns]^T; 0 < n <= kMostOuterProducts.
template <class acc_t>
void outer_products(acc_t* out, int64_t M, int64_t columns, const acc_t* const* a, const acc_t* const* b, int64_t n);

}  // namespace rnndrop::cpu
