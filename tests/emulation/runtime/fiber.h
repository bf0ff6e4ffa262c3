// Fibers: a stack of its own for each CUDA thread, and the switch between two of them on one OS thread.
//
// The x86-64 switch saves the six registers that a call preserves; other machines (or -DEMU_UCONTEXT) take swapcontext,
// 10 times slower because it also saves the signal mask.
#pragma once

#include <sys/mman.h>

#include <new>
#include <vector>

#include "sanitizers.h"

#if !defined(__x86_64__) && !defined(EMU_UCONTEXT)
#define EMU_UCONTEXT
#endif
#ifdef EMU_UCONTEXT
#include <ucontext.h>
#endif

namespace emu {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr size_t kStackBytes = 256 << 10;  // instrumented frames are larger
#else
constexpr size_t kStackBytes = 64 << 10;
#endif
constexpr size_t kGuardBytes = 4096;

struct Fiber {
#ifdef EMU_UCONTEXT
  ucontext_t context;
#else
  void* stack_pointer = nullptr;  // while it does not run
#endif
  char* mapping = nullptr;      // guard page, then the stack; null for the OS thread's own
  const void* stack = nullptr;  // lowest address
  size_t stack_bytes = 0;
  void* fake_stack = nullptr;  // ASan's
  void* tsan = nullptr;        // TSan's
};

inline std::vector<char*> idle_stacks;

inline char* take_stack() {
  // A reused stack would look like a race between its two owners.
  if (!kRaceChecked && !idle_stacks.empty()) {
    char* mapping = idle_stacks.back();
    idle_stacks.pop_back();
    return mapping;
  }
  void* mapping = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED || mprotect(mapping, kGuardBytes, PROT_NONE)) throw std::bad_alloc();
  return static_cast<char*>(mapping);
}

// `entry` must never return: a fiber ends by a switch that nobody answers.
inline void start_fiber(Fiber& fiber, void (*entry)()) {
  fiber.mapping = take_stack();
  char* stack = fiber.mapping + kGuardBytes;
  fiber.stack = stack;
  fiber.stack_bytes = kStackBytes;
  fiber.tsan = tsan_create_fiber();
  asan_reset_stack(stack, kStackBytes);
#ifdef EMU_UCONTEXT
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = stack;
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, entry, 0);
#else
  // What swap_stacks pops: six registers, then its return address. The slot above keeps the ABI's alignment.
  void** top = reinterpret_cast<void**>(stack + kStackBytes) - 1;
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; i++) *--top = nullptr;
  fiber.stack_pointer = top;
#endif
}

inline void retire_fiber(Fiber& fiber) {
  tsan_destroy_fiber(fiber.tsan);
  if (kRaceChecked) {
    munmap(fiber.mapping, kGuardBytes + kStackBytes);
  } else {
    idle_stacks.push_back(fiber.mapping);
  }
  fiber.mapping = nullptr;
}

#ifndef EMU_UCONTEXT
__attribute__((naked, noinline, unused)) static void swap_stacks(void** /*save*/, void* /*load*/) {
  asm volatile(
      "pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
      "movq %rsp, (%rdi)\n"
      "movq %rsi, %rsp\n"
      "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n"
      "ret\n");
}
#endif

// Returns when someone switches back to `from`; with `for_good` nobody may.
EMU_UNCHECKED inline void switch_fiber(Fiber& from, Fiber& to, bool for_good = false) {
  asan_leave_stack(for_good ? nullptr : &from.fake_stack, to.stack, to.stack_bytes);
  tsan_switch(to.tsan);
#ifdef EMU_UCONTEXT
  swapcontext(&from.context, &to.context);
#else
  swap_stacks(&from.stack_pointer, to.stack_pointer);
#endif
  asan_enter_stack(from.fake_stack, nullptr, nullptr);
}

// The first thing on a new fiber: completes the switch, and learns the bounds of the stack it came from.
EMU_UNCHECKED inline void enter_fiber(Fiber& from) { asan_enter_stack(nullptr, &from.stack, &from.stack_bytes); }

}  // namespace emu
