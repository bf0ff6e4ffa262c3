// What the compiler calls before every load and store of an instrumented function, for weak memory.
#pragma once

#include "memory.h"

#ifdef EMU_WEAK_MEMORY

namespace emu::weak {

template <class T>
EMU_UNCHECKED_PART bool within(const void* address, const T* object) {
  return address >= object && address < object + 1;
}

// A thread's stack, and what the emulation itself keeps.
EMU_UNCHECKED_PART inline bool is_private(const void* address) {
  const char* stack = static_cast<const char*>(current->fiber.stack);
  const char* byte = static_cast<const char*>(address);
  return (byte >= stack && byte < stack + current->fiber.stack_bytes) || within(address, current) ||
         within(address, current->block) || within(address, running);
}

EMU_UNCHECKED inline void mark_unfenced(SharedArray& array, const void* address, size_t size) {
  const size_t begin = static_cast<const char*>(address) - array.data;
  for (size_t k = begin / kGranule; k <= (begin + size - 1) / kGranule && k < array.unfenced.size(); ++k) {
    array.unfenced[k] = 1;
  }
}

EMU_UNCHECKED inline void on_write(const void* address, size_t size) {
  if (!size || is_private(address)) return;
  const Unwatched unwatched;
  Block& block = *current->block;
  for (int i = 0; i <= block.shared_count; i++) {
    if (holds(block.shared[i], address)) return mark_unfenced(block.shared[i], address, size);
  }
  on_store(block.view, reinterpret_cast<uintptr_t>(address), size);
}

EMU_UNCHECKED inline void on_read(const void* address, size_t size) {
  if (!size || is_private(address)) return;
  const Unwatched unwatched;
  if (owner_of(address)) return;
  on_load(current->block->view, reinterpret_cast<uintptr_t>(address), size);
}

}  // namespace emu::weak

#define EMU_HOOK extern "C" __attribute__((no_sanitize("thread"), used)) inline void
// Most of the calls come from the emulation itself: they shall be short.
#define EMU_SEEN(access, address, size) \
  if (emu::weak::watching) emu::weak::on_##access(address, size)
#define EMU_HOOKS(size)                                                                  \
  EMU_HOOK __tsan_read##size(void* address) { EMU_SEEN(read, address, size); }           \
  EMU_HOOK __tsan_write##size(void* address) { EMU_SEEN(write, address, size); }         \
  EMU_HOOK __tsan_unaligned_read##size(void* address) { EMU_SEEN(read, address, size); } \
  EMU_HOOK __tsan_unaligned_write##size(void* address) { EMU_SEEN(write, address, size); }
EMU_HOOKS(1)
EMU_HOOKS(2)
EMU_HOOKS(4)
EMU_HOOKS(8)
EMU_HOOKS(16)
EMU_HOOK __tsan_read_range(void* address, long size) { EMU_SEEN(read, address, size); }
EMU_HOOK __tsan_write_range(void* address, long size) { EMU_SEEN(write, address, size); }
EMU_HOOK __tsan_vptr_update(void*, void*) {}
EMU_HOOK __tsan_vptr_read(void*) {}
EMU_HOOK __tsan_func_entry(void*) {}
EMU_HOOK __tsan_func_exit(void*) {}
EMU_HOOK __tsan_init() {}
#undef EMU_HOOKS
#undef EMU_SEEN
#undef EMU_HOOK

#endif
