// A chunk of a row: loaded into the compute type, stored from it, with whatever noise there is.
//
// The loops are plain scalar C++ over arrays of a fixed length, compiled for each width of vectors as vector_isa.h
// says.
#pragma once

#include <c10/util/Half.h>

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "cpu/compute_type.h"
#include "cpu/convert.h"
#include "cpu/step_kernels.h"
#include "cpu/vector_isa.h"
#include "lstm_cell.h"

namespace rnndrop::cpu {

inline constexpr int64_t kChunk = 64;
inline constexpr int64_t kLanes = kVectorUnits;  // the widest vector's, in float32

template <class T>
struct alignas(64) Chunk {
  T data[kChunk];
  INLINE T& operator[](int64_t k) { return data[k]; }
};

template <class acc_t>
struct NoiseChunks {
  Chunk<acc_t> m_g, m_c, z_c, z_h;
  template <bool noisy_state>
  INLINE CellNoise<acc_t> at(int64_t k) {
    CellNoise<acc_t> noise;
    noise.m_g = m_g[k];
    if constexpr (noisy_state) {
      noise.m_c = m_c[k];
      noise.z_c = z_c[k];
      noise.z_h = z_h[k];
    }
    return noise;
  }
};

namespace {

// work(first, n)
template <class Work>
INLINE void for_each_chunk(int64_t begin, int64_t end, const Work& work) {
  for (int64_t j = begin; j < end; j += kChunk) work(j, std::min(kChunk, end - j));
}

// work(k) for the elements of a chunk, and up to a multiple of kLanes beyond them: a constant number at a time is what
// the compiler turns into whole vectors, with nothing left over. No element's work reads what another's has written.
template <class Work>
INLINE void for_each_element(int64_t n, const Work& work) {
  for (int64_t first = 0; first < n; first += kLanes) {
    INDEPENDENT_ITERATIONS
    for (int64_t k = 0; k < kLanes; ++k) work(first + k);
  }
}

// work(first, length) for n elements: whole vectors of kLanes, then powers of two, each a constant.
template <class Work>
INLINE void for_each_vector(int64_t n, const Work& work) {
  int64_t first = 0;
  for (; first + kLanes <= n; first += kLanes) work(first, std::integral_constant<int64_t, kLanes>());
  static_assert(kLanes == 16);
  const auto if_left = [&](auto length) __attribute__((always_inline)) {
    if ((n & length) == 0) return;
    work(first, length);
    first += length;
  };
  if_left(std::integral_constant<int64_t, 8>());
  if_left(std::integral_constant<int64_t, 4>());
  if_left(std::integral_constant<int64_t, 2>());
  if_left(std::integral_constant<int64_t, 1>());
}

// A row's end, n of kLanes elements: for float and double a masked vector; for 16 bits, whose conversions would become
// a branch an element, a call.
template <class scalar_t, class acc_t>
INLINE void load_end(acc_t* out, const scalar_t* in, int n) {
  if constexpr (std::is_same_v<scalar_t, acc_t>) {
    for (int k = 0; k < kLanes; ++k) out[k] = k < n ? in[k] : acc_t(0);
  } else {
    for (int k = 0; k < kLanes; ++k) out[k] = acc_t(0);
    convert(out, in, n);
  }
}

// No masked vector is stored: AVX2's takes a dozen cycles.
template <class out_t, class in_t>
INLINE void copy(out_t* out, const in_t* in, int64_t n) {
  if constexpr (std::is_same_v<out_t, in_t>) {
    for_each_vector(n, [&](int64_t first, auto length) __attribute__((always_inline)) {
      std::memcpy(out + first, in + first, length * sizeof(out_t));
    });
  } else {
    convert(out, in, n);
  }
}

// float16, for which the processor has an instruction that the compiler does not find in a loop.
template <class scalar_t>
inline constexpr bool kConvertsByCall = std::is_same_v<scalar_t, c10::Half>;

template <class scalar_t, class acc_t>
INLINE void load(Chunk<acc_t>& out, const scalar_t* in, int64_t n) {
  const int64_t whole = n / kLanes * kLanes;
  if constexpr (kConvertsByCall<scalar_t>) {
    convert(out.data, in, whole);
  } else {
    for_each_element(whole, [&](int64_t k) __attribute__((always_inline)) { out[k] = static_cast<acc_t>(in[k]); });
  }
  if (whole < n) [[unlikely]]
    load_end(out.data + whole, in + whole, n - whole);
}

// M rows of n elements, as neighbours.
template <class scalar_t, class acc_t>
INLINE void load_rows(Chunk<acc_t>& out, const scalar_t* in, int64_t stride, int64_t M, int64_t n) {
  if (M == 1) return load(out, in, n);
  if constexpr (std::is_same_v<scalar_t, acc_t>) {
    for (int64_t m = 0; m < M; ++m) copy(out.data + m * n, in + m * stride, n);
  } else {
    convert(out.data, n, in, stride, M, n);
  }
}

template <class scalar_t, class acc_t>
INLINE void load_or(Chunk<acc_t>& out, const scalar_t* in, acc_t absent, int64_t n) {
  if (in) {
    load(out, in, n);
  } else {
    for (int64_t k = 0; k < kChunk; ++k) out[k] = absent;
  }
}

template <class scalar_t, class acc_t>
INLINE void store(scalar_t* out, Chunk<acc_t>& in, int64_t n) {
  const int64_t whole = n / kLanes * kLanes;
  if constexpr (kConvertsByCall<scalar_t>) {
    convert(out, in.data, whole);
  } else {
    for_each_element(whole, [&](int64_t k) __attribute__((always_inline)) { out[k] = static_cast<scalar_t>(in[k]); });
  }
  if (whole < n) [[unlikely]]
    copy(out + whole, in.data + whole, n - whole);
}

template <class scalar_t, class acc_t>
INLINE void store_rows(scalar_t* out, Chunk<acc_t>& in, int64_t stride, int64_t M, int64_t n) {
  if (M == 1) return store(out, in, n);
  if constexpr (std::is_same_v<scalar_t, acc_t>) {
    for (int64_t m = 0; m < M; ++m) copy(out + m * stride, in.data + m * n, n);
  } else {
    convert(out, stride, in.data, n, M, n);
  }
}

// out += M rows of n elements.
template <class scalar_t, class acc_t>
INLINE void add_rows(Chunk<acc_t>& out, const scalar_t* in, int64_t stride, int64_t M, int64_t n) {
  if (!in) return;
  Chunk<acc_t> addend;
  load_rows(addend, in, stride, M, n);
  for_each_element(M * n, [&](int64_t k) __attribute__((always_inline)) { out[k] += addend[k]; });
}

template <class T>
INLINE const T* offset(const void* base, int64_t elements) {
  return base ? static_cast<const T*>(base) + elements : nullptr;
}
template <class T>
INLINE T* offset(void* base, int64_t elements) {
  return base ? static_cast<T*>(base) + elements : nullptr;
}

// The noise of n elements from (b, j) on; absent is 1 for a mask, 0 for zoneout.
template <class scalar_t, class acc_t>
INLINE void load_noise(Chunk<acc_t>& out, const RowNoise& noise, acc_t absent, int64_t b, int64_t j, int64_t n) {
  load_or(out, offset<scalar_t>(noise.data, b * noise.stride + j), absent, n);
}

template <class scalar_t, class acc_t>
INLINE void load_noise(NoiseChunks<acc_t>& out, const StepNoise& noise, int64_t b, int64_t j, int64_t n) {
  const struct {
    Chunk<acc_t>& chunk;
    const RowNoise& noise;
    acc_t absent;
  } all[] = {
      {out.m_g, noise.mask_g, 1}, {out.m_c, noise.mask_c, 1}, {out.z_c, noise.zone_c, 0}, {out.z_h, noise.zone_h, 0}};
  const int64_t kinds = noise.on_state() ? 4 : 1;
  for (int64_t k = 0; k < kinds; ++k) load_noise<scalar_t>(all[k].chunk, all[k].noise, all[k].absent, b, j, n);
}

// h~ of the next step: mask_h * h, for all gates or for each.
template <class scalar_t, class acc_t>
INLINE void store_h_tilde(const StepForward& step, int64_t at, Chunk<acc_t>& h, int64_t n) {
  if (!step.h_tilde_next) return;
  for (int64_t gate = 0; gate < step.n_h_tilde; ++gate) {
    const int64_t of_gate = gate * step.B * step.H + at;
    Chunk<acc_t> h_tilde;
    load_or(h_tilde, offset<scalar_t>(step.mask_h, of_gate), acc_t(1), n);
    for_each_element(n, [&](int64_t k) __attribute__((always_inline)) { h_tilde[k] *= h[k]; });
    store(static_cast<scalar_t*>(step.h_tilde_next) + of_gate, h_tilde, n);
  }
}

}  // namespace
}  // namespace rnndrop::cpu
