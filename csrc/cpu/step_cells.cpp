// Cost: at H=128 the exps take longer than the memory.
#include "cpu/step_cells.h"

namespace rnndrop::cpu {
namespace {

template <class T>
struct Constant {
  alignas(64) T of_gates[kGates * kLanes];
  explicit constexpr Constant(T value) : of_gates() {
    for (T& element : of_gates) element = value;
  }
};
template <class T>
inline constexpr Constant<T> kZeros{T(0)};
template <class T>
inline constexpr Constant<T> kOnes{T(1)};

// kLanes elements. What is absent is read from constants and written to nowhere, so that there is one loop, which the
// compiler turns into straight vector code.
template <class T>
INLINE void forward_lanes(const Strip<T>& strip, int64_t at) {
  alignas(64) T nowhere[kGates * kLanes];
  const T *pre = strip.pre + at, *addend = strip.addend ? strip.addend + at : kZeros<T>.of_gates;
  const T *mask_g = strip.mask_g ? strip.mask_g + at : kOnes<T>.of_gates, *c_prev = strip.c_prev + at;
  T *out = strip.out ? strip.out + at : nowhere, *c = strip.c + at, *y = strip.y + at;
  const int64_t of_pre = strip.pre_stride, of_addend = strip.addend ? strip.addend_stride : kLanes;
  const int64_t of_out = strip.out ? strip.out_stride : kLanes;
  INDEPENDENT_ITERATIONS
  for (int64_t k = 0; k < kLanes; ++k) {
    const auto pre_of = [=](int64_t gate) __attribute__((always_inline)) {
      return pre[gate * of_pre + k] + addend[gate * of_addend + k];
    };
    CellNoise<T> noise;
    noise.m_g = mask_g[k];
    const CellForward<T> cell = cell_forward<false>(pre_of(kInput), pre_of(kForget), pre_of(kCandidate),
                                                    pre_of(kOutput), noise, c_prev[k], T(0));
    out[kInput * of_out + k] = cell.i;
    out[kForget * of_out + k] = cell.f;
    out[kCandidate * of_out + k] = cell.g;
    out[kOutput * of_out + k] = cell.o;
    c[k] = cell.c;
    y[k] = cell.h;
  }
}

// The first n < kLanes elements from `at` on, by way of whole vectors.
template <class T>
INLINE void forward_end(const Strip<T>& strip, int64_t at, int64_t n) {
  alignas(64) T pre[kGates * kLanes], addend[kGates * kLanes], mask_g[kLanes], c_prev[kLanes], c[kLanes], y[kLanes];
  for (int64_t gate = 0; gate < kGates; ++gate) {
    load_end(pre + gate * kLanes, strip.pre + gate * strip.pre_stride + at, n);
    if (strip.addend) load_end(addend + gate * kLanes, strip.addend + gate * strip.addend_stride + at, n);
  }
  if (strip.mask_g) load_end(mask_g, strip.mask_g + at, n);
  load_end(c_prev, strip.c_prev + at, n);
  const Strip<T> whole{
      pre, kLanes, strip.addend ? addend : nullptr, kLanes, pre, kLanes, strip.mask_g ? mask_g : nullptr, c_prev, c, y};
  forward_lanes(whole, 0);
  for (int64_t gate = 0; strip.out && gate < kGates; ++gate) {
    copy(strip.out + gate * strip.out_stride + at, pre + gate * kLanes, n);
  }
  copy(strip.c + at, c, n);
  copy(strip.y + at, y, n);
}

template <class T>
INLINE void forward_strip(const Strip<T>& strip, int64_t n) {
  int64_t at = 0;
  for (; at + kLanes <= n; at += kLanes) forward_lanes(strip, at);
  if (at < n) forward_end(strip, at, n - at);
}

template <bool noisy_state, class T>
INLINE void forward_chunk(ForwardChunks<T>& chunks, int64_t n) {
  Chunk<T>* gates = chunks.gates;
  for_each_element(n, [&](int64_t k) __attribute__((always_inline)) {
    const CellForward<T> cell = cell_forward<noisy_state>(gates[kInput][k], gates[kForget][k], gates[kCandidate][k],
                                                          gates[kOutput][k], chunks.noise.template at<noisy_state>(k),
                                                          chunks.c_prev[k], noisy_state ? chunks.h_prev[k] : T(0));
    gates[kInput][k] = cell.i;
    gates[kForget][k] = cell.f;
    gates[kCandidate][k] = cell.g;
    gates[kOutput][k] = cell.o;
    chunks.c[k] = cell.c;
    chunks.h[k] = cell.h;
  });
}

template <bool noisy_state, class T>
INLINE void backward_chunk(BackwardChunks<T>& chunks, int64_t n) {
  Chunk<T>* gates = chunks.gates;
  for_each_element(n, [&](int64_t k) __attribute__((always_inline)) {
    const CellBackward<T> cell =
        cell_backward<noisy_state>(gates[kInput][k], gates[kForget][k], gates[kCandidate][k], gates[kOutput][k],
                                   chunks.noise.template at<noisy_state>(k), chunks.c_prev[k], chunks.c[k],
                                   chunks.dh[k] + chunks.dy[k], chunks.dc[k]);
    gates[kInput][k] = cell.di_pre;
    gates[kForget][k] = cell.df_pre;
    gates[kCandidate][k] = cell.dg_pre;
    gates[kOutput][k] = cell.do_pre;
    chunks.dc[k] = cell.dc_prev;
    chunks.dh[k] = cell.dh_prev;
  });
}

#define DEFINE_KERNELS(NAME, ATTRIBUTE)                                                    \
  template <class T>                                                                       \
  ATTRIBUTE void forward_strip_##NAME(const Strip<T>& strip, int64_t n) {                  \
    forward_strip(strip, n);                                                               \
  }                                                                                        \
  template <class T>                                                                       \
  ATTRIBUTE void forward_##NAME(ForwardChunks<T>& chunks, int64_t n, bool noisy_state) {   \
    noisy_state ? forward_chunk<true>(chunks, n) : forward_chunk<false>(chunks, n);        \
  }                                                                                        \
  template <class T>                                                                       \
  ATTRIBUTE void backward_##NAME(BackwardChunks<T>& chunks, int64_t n, bool noisy_state) { \
    noisy_state ? backward_chunk<true>(chunks, n) : backward_chunk<false>(chunks, n);      \
  }                                                                                        \
  template <class T>                                                                       \
  constexpr CellKernels<T> kernels_##NAME{forward_strip_##NAME<T>, forward_##NAME<T>, backward_##NAME<T>};
DEFINE_FOR_EVERY_ISA(DEFINE_KERNELS)
#undef DEFINE_KERNELS

}  // namespace

template <class T>
const CellKernels<T>& cell_kernels() {
  static const CellKernels<T>& chosen = WIDEST_OF(kernels_, T);
  return chosen;
}

template const CellKernels<float>& cell_kernels();
template const CellKernels<double>& cell_kernels();

}  // namespace rnndrop::cpu
