// Memory of a call's own: uninitialised, aligned to a cache line, given back when the call ends.
#pragma once

#include <cstdint>
#include <memory>

namespace rnndrop::cpu {

constexpr int64_t round_up(int64_t n, int64_t granule) { return (n + granule - 1) / granule * granule; }

constexpr int64_t kCacheLine = 64;

// n elements as an odd number of lines, which no few rows share the first cache's sets at.
template <class T>
constexpr int64_t odd_lines(int64_t n) {
  constexpr int64_t kLine = kCacheLine / sizeof(T);
  return ((n + kLine - 1) / kLine | 1) * kLine;
}

// What memory is counted in.
struct alignas(kCacheLine) Line {
  char bytes[kCacheLine];
};

struct Block {
  Line* memory = nullptr;
  int64_t lines = 0;
};

// Asks the system for pages of 2 MB before the memory is first written to: without them the processor looks up where
// each 4 KB of a large weight are at every reading, for which few rows wait up to half of their time.
void prefer_huge_pages(void* memory, int64_t bytes);

// At least so many lines, of this call's or of an earlier one's that was given back.
Block take_memory(int64_t lines);
void give_back_memory(const Block& block);

template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t n)
      : Buffer(n > 0 ? take_memory((n * sizeof(T) + sizeof(Line) - 1) / sizeof(Line)) : Block{}) {}
  T* data() const { return reinterpret_cast<T*>(memory_.get()); }

 private:
  explicit Buffer(const Block& block) : memory_(block.memory, GiveBack{block.lines}) {}

  struct GiveBack {
    int64_t lines;
    void operator()(Line* memory) const { give_back_memory({memory, lines}); }
  };
  std::unique_ptr<Line, GiveBack> memory_;
};

}  // namespace rnndrop::cpu
