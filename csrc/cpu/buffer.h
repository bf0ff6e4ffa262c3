// Memory of a call's own: uninitialised, aligned to a cache line, freed when the call ends.
#pragma once

#include <cstdint>
#include <memory>

namespace rnndrop::cpu {

constexpr int64_t round_up(int64_t n, int64_t granule) { return (n + granule - 1) / granule * granule; }

template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t n)
      : storage_(n > 0 ? new Line[(n * sizeof(T) + sizeof(Line) - 1) / sizeof(Line)] : nullptr) {}
  T* data() const { return reinterpret_cast<T*>(storage_.get()); }

 private:
  struct alignas(64) Line {
    char bytes[64];
  };
  std::unique_ptr<Line[]> storage_;
};

}  // namespace rnndrop::cpu
