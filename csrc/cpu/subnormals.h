// Numbers too small to be normal, which Intel's processors take many times as long for.
//
// A gradient that nothing joins on its way back, of a unit that both dropouts drop or of a loss on the last state
// alone, is halved at every step: after some hundred of them it is below 1e-38, and lingers there.
#pragma once

#ifdef __x86_64__
#include <xmmintrin.h>
#endif

namespace rnndrop::cpu {

// While one lives on a thread, they are zeros, read and written.
class SubnormalsAreZero {
#ifdef __x86_64__
 public:
  SubnormalsAreZero() : before_(_mm_getcsr()) { _mm_setcsr(before_ | kFlushToZero | kDenormalsAreZero); }
  ~SubnormalsAreZero() { _mm_setcsr(before_); }
  SubnormalsAreZero(const SubnormalsAreZero&) = delete;

 private:
  static constexpr unsigned kFlushToZero = 1u << 15, kDenormalsAreZero = 1u << 6;
  unsigned before_;
#else
 public:
  SubnormalsAreZero() {}
#endif
};

}  // namespace rnndrop::cpu
