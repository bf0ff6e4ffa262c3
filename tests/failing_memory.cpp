// An allocator that fails on demand, preloaded by tests/system/test_out_of_memory.py: of the allocations between arm()
// and disarm() those from the first-th on, one of them or all. Counted are what rnndrop_cuda's extension allocates with
// `new` and torch's tensors; memory that others ask for is always there, oneDNN among them, which crashes without.
#include <link.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

namespace {

// Where a loaded library's code lies. (dladdr also looks for a name, which among torch's symbols takes milliseconds.)
struct Library {
  const char* name;
  uintptr_t begin = 0, end = 0;

  bool has(void* caller) const { return begin <= uintptr_t(caller) && uintptr_t(caller) < end; }
  void find() {
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* data) {
          Library& library = *static_cast<Library*>(data);
          if (!std::strstr(info->dlpi_name, library.name)) return 0;
          for (int k = 0; k < info->dlpi_phnum; ++k) {
            const ElfW(Phdr) & part = info->dlpi_phdr[k];
            if (part.p_type != PT_LOAD || !(part.p_flags & PF_X)) continue;
            library.begin = info->dlpi_addr + part.p_vaddr;
            library.end = library.begin + part.p_memsz;
          }
          return 1;
        },
        this);
  }
};

Library extension{"rnndrop_cuda/_C"}, tensors{"libc10.so"};
std::atomic<bool> armed{false}, all_after_it{false};
std::atomic<int64_t> seen{0}, failed{0}, first_failing{0};

bool fails() {
  const int64_t k = seen++;
  if (k < first_failing || (k > first_failing && !all_after_it)) return false;
  ++failed;
  return true;
}

void* allocate(size_t bytes, size_t alignment, void* caller) {
  if (armed && extension.has(caller) && fails()) throw std::bad_alloc();
  void* memory = alignment ? aligned_alloc(alignment, bytes) : std::malloc(bytes ? bytes : 1);
  if (!memory) throw std::bad_alloc();
  return memory;
}

}  // namespace

void* operator new(size_t bytes) { return allocate(bytes, 0, __builtin_return_address(0)); }
void* operator new[](size_t bytes) { return allocate(bytes, 0, __builtin_return_address(0)); }
void* operator new(size_t bytes, std::align_val_t alignment) {
  return allocate(bytes, size_t(alignment), __builtin_return_address(0));
}
void* operator new[](size_t bytes, std::align_val_t alignment) {
  return allocate(bytes, size_t(alignment), __builtin_return_address(0));
}

extern "C" {

int posix_memalign(void** memory, size_t alignment, size_t bytes) {
  if (armed && tensors.has(__builtin_return_address(0)) && fails()) return ENOMEM;
  *memory = aligned_alloc(alignment, bytes);
  return *memory ? 0 : ENOMEM;
}

void arm(int64_t first, bool and_all_after) {
  extension.find();
  tensors.find();
  seen = failed = 0;
  first_failing = first;
  all_after_it = and_all_after;
  armed = true;
}

// How many allocations failed.
int64_t disarm() {
  armed = false;
  return failed;
}
}
