// Large blocks of memory are kept from call to call.
//
// malloc would hand them back to the system, and to get their pages again, one fault each, took a quarter of the time
// of T=8 B=96 I=H=512. MKL and oneDNN keep their memory too.
#include "cpu/buffer.h"

#include <mutex>
#include <vector>

namespace rnndrop::cpu {
namespace {

constexpr int64_t kLeast = (256 << 10) / kCacheLine;         // smaller blocks malloc keeps by itself
constexpr int64_t kMostTogether = (128 << 20) / kCacheLine;  // of all blocks that are kept
constexpr size_t kMostBlocks = 16;

// The line before a block says how long it is.
int64_t& lines_of(Line* memory) { return *reinterpret_cast<int64_t*>(memory - 1); }

Line* allocate(int64_t lines) {
  Line* memory = new Line[lines + 1] + 1;
  lines_of(memory) = lines;
  return memory;
}

void release(Line* memory) { delete[] (memory - 1); }

// Whoever finds the lock taken does without: nobody waits, not even in the child of a process that forked with the lock
// taken.
class KeptBlocks {
 public:
  KeptBlocks() { blocks_.reserve(kMostBlocks + 1); }

  // The smallest that will do, or null. One of more than twice the length is left for those who need it.
  Line* take(int64_t lines) {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock) return nullptr;
    auto best = blocks_.end();
    for (auto block = blocks_.begin(); block != blocks_.end(); ++block) {
      const int64_t length = lines_of(*block);
      if (length < lines || length > 2 * lines) continue;
      if (best == blocks_.end() || length < lines_of(*best)) best = block;
    }
    if (best == blocks_.end()) return nullptr;
    Line* memory = *best;
    remove(best);
    return memory;
  }

  // Whether it is kept now; those kept longest make room for it.
  bool keep(Line* memory) {
    if (lines_of(memory) > kMostTogether) return false;
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock) return false;
    blocks_.push_back(memory);
    lines_ += lines_of(memory);
    while (lines_ > kMostTogether || blocks_.size() > kMostBlocks) {
      Line* oldest = blocks_.front();
      remove(blocks_.begin());
      release(oldest);
    }
    return true;
  }

 private:
  void remove(std::vector<Line*>::iterator block) {
    lines_ -= lines_of(*block);
    blocks_.erase(block);
  }

  std::mutex mutex_;
  std::vector<Line*> blocks_;  // the oldest first
  int64_t lines_ = 0;
};

// Never destroyed: a thread may still be in a call when the process ends.
KeptBlocks& kept_blocks() {
  static KeptBlocks& kept = *new KeptBlocks;
  return kept;
}

}  // namespace

Line* take_memory(int64_t lines) {
  Line* kept = lines < kLeast ? nullptr : kept_blocks().take(lines);
  return kept ? kept : allocate(lines);
}

void give_back_memory(Line* memory) {
  if (lines_of(memory) < kLeast || !kept_blocks().keep(memory)) release(memory);
}

}  // namespace rnndrop::cpu
