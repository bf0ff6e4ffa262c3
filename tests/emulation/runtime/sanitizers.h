// What AddressSanitizer and ThreadSanitizer must be told about fibers; without them every hook is empty.
//
// ThreadSanitizer sees each CUDA thread as a thread of its own and a switch orders nothing: only what `release` and
// `acquire` say happens before, does. So a barrier missing from a kernel is a data race, reported at its source line.
#pragma once

#include <cstddef>

#ifdef __has_feature  // clang's spelling
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#if __has_feature(thread_sanitizer)
#define __SANITIZE_THREAD__ 1
#endif
#endif

// Weak memory takes the compiler's hooks for itself.
#if defined(__SANITIZE_THREAD__) && !defined(EMU_WEAK_MEMORY)
#define EMU_RACE_CHECKED
#include <sanitizer/tsan_interface.h>
#endif
// On every function that kernels reach and that touches the runtime's own state: that is no part of the kernel's
// memory model, so ThreadSanitizer shall not look. Such a function must not leave the touching to a container's
// methods, which are looked at, unless all threads only read.
#ifdef __SANITIZE_THREAD__
#define EMU_UNCHECKED __attribute__((no_sanitize("thread"), noinline))
#else
#define EMU_UNCHECKED
#endif
// On what only such functions call, and often.
#ifdef __SANITIZE_THREAD__
#define EMU_UNCHECKED_PART __attribute__((no_sanitize("thread"), always_inline))
#else
#define EMU_UNCHECKED_PART
#endif
// On every function with an atomic, which only the race checker shall see.
#ifdef EMU_RACE_CHECKED
#define EMU_ATOMIC
#else
#define EMU_ATOMIC EMU_UNCHECKED
#endif

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emu {

#ifdef EMU_RACE_CHECKED
constexpr bool kRaceChecked = true;
EMU_UNCHECKED inline void release(void* order) { __tsan_release(order); }
EMU_UNCHECKED inline void acquire(void* order) { __tsan_acquire(order); }
EMU_UNCHECKED inline void* tsan_create_fiber() { return __tsan_create_fiber(0); }
EMU_UNCHECKED inline void tsan_destroy_fiber(void* fiber) { __tsan_destroy_fiber(fiber); }
EMU_UNCHECKED inline void* tsan_current_fiber() { return __tsan_get_current_fiber(); }
EMU_UNCHECKED inline void tsan_switch(void* to) { __tsan_switch_to_fiber(to, __tsan_switch_to_fiber_no_sync); }
// All that `fiber` has done happens before what the caller does next.
EMU_UNCHECKED inline void tsan_join(void* fiber) {
  void* caller = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(fiber, 0);
  __tsan_switch_to_fiber(caller, 0);
}
#else
constexpr bool kRaceChecked = false;
inline void release(void*) {}
inline void acquire(void*) {}
inline void* tsan_create_fiber() { return nullptr; }
inline void tsan_destroy_fiber(void*) {}
inline void* tsan_current_fiber() { return nullptr; }
inline void tsan_switch(void*) {}
inline void tsan_join(void*) {}
#endif

#ifdef __SANITIZE_ADDRESS__
// `fake_stack` keeps what ASan wants back when the fiber that is left goes on; null when it never will.
inline void asan_leave_stack(void** fake_stack, const void* to, size_t to_bytes) {
  __sanitizer_start_switch_fiber(fake_stack, to, to_bytes);
}
inline void asan_enter_stack(void* fake_stack, const void** from, size_t* from_bytes) {
  __sanitizer_finish_switch_fiber(fake_stack, from, from_bytes);
}
inline void asan_reset_stack(char* stack, size_t bytes) { __asan_unpoison_memory_region(stack, bytes); }
#else
inline void asan_leave_stack(void**, const void*, size_t) {}
inline void asan_enter_stack(void*, const void**, size_t*) {}
inline void asan_reset_stack(char*, size_t) {}
#endif

}  // namespace emu
