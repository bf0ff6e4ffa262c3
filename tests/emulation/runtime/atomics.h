// Atomics and single accesses that are more than a load or a store: relaxed, or with acquire or release at gpu scope.
#pragma once

#include "barriers.h"

namespace emu {

// 16 bytes that are loaded or stored at once.
struct alignas(16) Bits128 {
  uint64_t low, high;
};

template <class T, class F>
EMU_ATOMIC T update_at_once(T* address, F new_value, int order) {
  T old, next;
  __atomic_load(address, &old, __ATOMIC_RELAXED);
  do {
    next = new_value(old);
  } while (!__atomic_compare_exchange(address, &old, &next, false, order, __ATOMIC_RELAXED));
  return old;
}

template <class T, class F>
T update(T* address, F new_value, int order) {
  if constexpr (weak::kOn) {
    const weak::Unwatched unwatched;
    const weak::Atomic atomic(current->block->view, address, sizeof(T));
    return update_at_once(address, new_value, order);
  }
  return update_at_once(address, new_value, order);
}

// Relaxed, as CUDA's are.
template <class T, class F>
T read_modify_write(T* address, F new_value) {
  maybe_preempt();
  return update(address, new_value, __ATOMIC_RELAXED);
}

inline void red_release_add(unsigned* address, unsigned value) {
  maybe_preempt();
  release_block();
  update(address, [=](unsigned old) { return old + value; }, __ATOMIC_ACQ_REL);
}

// What memory holds for all.
EMU_ATOMIC inline unsigned load_word(const unsigned* address, int order) {
  if constexpr (weak::kOn) {
    const weak::Unwatched unwatched;
    unsigned value;
    weak::load_past_l1(current->block->view, &value, address, sizeof value);
    return value;
  }
  return __atomic_load_n(address, order);
}

inline unsigned ld_acquire(const unsigned* address) {
  maybe_preempt();
  const unsigned value = load_word(address, __ATOMIC_ACQUIRE);
  acquire_block();
  return value;
}

// It changes nothing. AddressSanitizer sees whether the address is one.
EMU_UNCHECKED inline void prefetch_to_l2(const void* address) {
  ++stats.prefetches;
  static_cast<void>(*static_cast<const volatile char*>(address));
}

inline unsigned ld_relaxed(const unsigned* address) {
  maybe_preempt();
  return load_word(address, __ATOMIC_RELAXED);
}

EMU_ATOMIC inline Bits128 load_bits(const uint64_t* address) {
  Bits128 value;
  if constexpr (weak::kOn) {
    const weak::Unwatched unwatched;
    weak::load_past_l1(current->block->view, &value, address, sizeof value);
    return value;
  }
  value.low = __atomic_load_n(address, __ATOMIC_RELAXED);
  value.high = __atomic_load_n(address + 1, __ATOMIC_RELAXED);  // no other thread runs between the two
  return value;
}

EMU_ATOMIC inline void store_bits(uint64_t* address, Bits128 value) {
  if constexpr (weak::kOn) {
    const weak::Unwatched unwatched;
    weak::on_store(current->block->view, reinterpret_cast<uintptr_t>(address), sizeof value);
  }
  __atomic_store_n(address, value.low, __ATOMIC_RELAXED);
  __atomic_store_n(address + 1, value.high, __ATOMIC_RELAXED);
}

inline void check_aligned(const char* what, const void* address, size_t bytes, Caller at) {
  if (reinterpret_cast<uintptr_t>(address) % bytes) {
    die("%s at %s:%d: %p is not aligned to %zu bytes", what, at.file, at.line, address, bytes);
  }
}

inline Bits128 ld_relaxed128(const void* address, Caller at = Caller::here()) {
  check_aligned("ld_relaxed128", address, sizeof(Bits128), at);
  maybe_preempt();
  return load_bits(static_cast<const uint64_t*>(address));
}

inline void st_relaxed128(void* address, Bits128 value, Caller at = Caller::here()) {
  check_aligned("st_relaxed128", address, sizeof(Bits128), at);
  maybe_preempt();
  store_bits(static_cast<uint64_t*>(address), value);
}

}  // namespace emu
