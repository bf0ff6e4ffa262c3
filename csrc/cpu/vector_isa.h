// One source, three widths of vector code: how a kernel is compiled for each, and which of them this machine runs.
//
// The kernels are plain loops that the compiler vectorises. A function attribute compiles them for the baseline, AVX2
// and AVX-512, so that one binary serves every x86-64 machine.
#pragma once

#include <cstddef>
#include <string>
#include <utility>

#include "cpu/from_torch.h"

// Forced inlining is what carries a kernel's target attribute into the code it is made of.
#define INLINE inline __attribute__((always_inline))

#if defined(__x86_64__) && defined(__GNUC__)
#define AVX512_ISA "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"
// GCC's own choice would be 32 bytes; Clang takes the widest anyway, and knows no such word: the whole attribute would
// be ignored, which the build makes an error.
#ifdef __clang__
#define WIDE_VECTORS
#else
#define WIDE_VECTORS ",prefer-vector-width=512"
#endif
#define AVX512_TARGET target(AVX512_ISA WIDE_VECTORS)
#define DEFINE_FOR_EVERY_ISA(DEFINE)                     \
  DEFINE(baseline, )                                     \
  DEFINE(AVX2, __attribute__((target("avx2,fma,f16c")))) \
  DEFINE(AVX512, __attribute__((AVX512_TARGET)))
#define WIDEST(PREFIX) rnndrop::cpu::widest(PREFIX##baseline, PREFIX##AVX2, PREFIX##AVX512)
#define WIDEST_OF(PREFIX, ...) \
  rnndrop::cpu::widest(PREFIX##baseline<__VA_ARGS__>, PREFIX##AVX2<__VA_ARGS__>, PREFIX##AVX512<__VA_ARGS__>)
#else
#define DEFINE_FOR_EVERY_ISA(DEFINE) DEFINE(baseline, )
#define WIDEST(PREFIX) PREFIX##baseline
#define WIDEST_OF(PREFIX, ...) PREFIX##baseline<__VA_ARGS__>
#endif

namespace rnndrop::cpu {

template <class Kernels>
const Kernels& widest(const Kernels& baseline, const Kernels& avx2, const Kernels& avx512) {
  static const std::string capability = cpu_capability();
  if (capability == "AVX512") return avx512;
  if (capability == "AVX2") return avx2;
  return baseline;
}

#define DEFINE_ISA_NAME(NAME, ATTRIBUTE) inline constexpr const char* isa_name_##NAME = #NAME;
DEFINE_FOR_EVERY_ISA(DEFINE_ISA_NAME)

// "AVX512", "AVX2" or "baseline": what the kernels run as on this machine.
inline const char* vector_isa() { return WIDEST(isa_name_); }

#ifdef __aarch64__
inline constexpr int kBaselineRegisters = 32;  // NEON's
#else
inline constexpr int kBaselineRegisters = 16;
#endif
inline constexpr int kVectorBytes_baseline = 16, kVectorBytes_AVX2 = 32, kVectorBytes_AVX512 = 64;

// A vector, and one in memory, at any address. They are two types since a template that deduces a type forgets how it
// is aligned.
template <class T, int bytes>
struct Vector {
  typedef T type __attribute__((vector_size(bytes)));
  typedef T in_memory __attribute__((vector_size(bytes), aligned(1), may_alias));
};

// v is in a register from here on: GCC would otherwise load it again where it is used. Clang does not, and would refuse
// a vector wider than what this function is compiled for, as GCC would in the tests where such vectors are emulated.
template <class V>
INLINE void keep_in_register([[maybe_unused]] V& v) {
#if defined(__x86_64__) && !defined(__clang__) && !defined(VECTORS_ARE_EMULATED)
  asm("" : "+v"(v));
#elif defined(__aarch64__) && !defined(__clang__)
  asm("" : "+w"(v));
#endif
}

// What GCC calls ivdep: no iteration reads what another has written.
#ifdef __clang__
#define INDEPENDENT_ITERATIONS _Pragma("clang loop vectorize(assume_safety)")
#else
#define INDEPENDENT_ITERATIONS _Pragma("GCC ivdep")
#endif

// Lanes of a and b in turn: the first half of each, or the second. In parts of n lanes, each by itself.
template <bool second, int n, class V, size_t... lane>
INLINE void interleave(V& out, const V& a, const V& b, std::index_sequence<lane...>) {
  constexpr size_t lanes = sizeof...(lane);
  out = __builtin_shufflevector(a, b, (lane / n * n + lane % n / 2 + second * n / 2 + lane % 2 * lanes)...);
}

}  // namespace rnndrop::cpu
