#include "cpu/outer_products.h"

#include "cpu/vector_isa.h"

namespace rnndrop::cpu {
namespace {

template <int n, class acc_t>
INLINE void write_rows(acc_t* out, int64_t M, int64_t columns, const acc_t* const* a, const acc_t* const* b) {
  const acc_t* rows[n];
  for (int r = 0; r < n; ++r) rows[r] = b[r];
  for (int64_t i = 0; i < M; ++i, out += columns) {
    acc_t factors[n];
    for (int r = 0; r < n; ++r) factors[r] = a[r][i];
    INDEPENDENT_ITERATIONS
    for (int64_t j = 0; j < columns; ++j) {
      acc_t sum = factors[0] * rows[0][j];
#pragma GCC unroll 3
      for (int r = 1; r < n; ++r) sum += factors[r] * rows[r][j];
      out[j] = sum;
    }
  }
}

template <class acc_t>
struct Kernels {
  void (*outer_products)(acc_t*, int64_t, int64_t, const acc_t* const*, const acc_t* const*, int64_t);
};

static_assert(kMostOuterProducts == 3);

#define DEFINE_KERNELS(NAME, ATTRIBUTE)                                                               \
  template <class acc_t>                                                                              \
  ATTRIBUTE void outer_products_##NAME(acc_t* out, int64_t M, int64_t columns, const acc_t* const* a, \
                                       const acc_t* const* b, int64_t n) {                            \
    if (n == 1) return write_rows<1>(out, M, columns, a, b);                                          \
    if (n == 2) return write_rows<2>(out, M, columns, a, b);                                          \
    write_rows<3>(out, M, columns, a, b);                                                             \
  }                                                                                                   \
  template <class acc_t>                                                                              \
  constexpr Kernels<acc_t> kernels_of_##NAME{outer_products_##NAME<acc_t>};

DEFINE_FOR_EVERY_ISA(DEFINE_KERNELS)

}  // namespace

template <class acc_t>
void outer_products(acc_t* out, int64_t M, int64_t columns, const acc_t* const* a, const acc_t* const* b, int64_t n) {
  WIDEST_OF(kernels_of_, acc_t).outer_products(out, M, columns, a, b, n);
}

template void outer_products(float*, int64_t, int64_t, const float* const*, const float* const*, int64_t);
template void outer_products(double*, int64_t, int64_t, const double* const*, const double* const*, int64_t);

}  // namespace rnndrop::cpu
