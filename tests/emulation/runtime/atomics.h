// Atomics, relaxed as CUDA's are; ordering between threads comes from ld_acquire and red_release_add alone.
#pragma once

#include "barriers.h"

namespace emu {

template <class T, class F>
T read_modify_write(T* address, F new_value) {
  maybe_preempt();
  T old, next;
  __atomic_load(address, &old, __ATOMIC_RELAXED);
  do {
    next = new_value(old);
  } while (!__atomic_compare_exchange(address, &old, &next, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return old;
}

}  // namespace emu
