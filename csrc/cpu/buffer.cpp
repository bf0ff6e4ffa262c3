// Large blocks of memory are kept from call to call.
//
// malloc would hand them back to the system, and to get their pages again, one fault each, took a quarter of the time
// of T=8 B=96 I=H=512. MKL and oneDNN keep their memory too.
#include "cpu/buffer.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <mutex>
#include <new>
#include <vector>

namespace rnndrop::cpu {
namespace {

constexpr int64_t kLeast = (256 << 10) / kCacheLine;         // smaller blocks malloc keeps by itself
constexpr int64_t kMostTogether = (128 << 20) / kCacheLine;  // of all blocks that are kept
constexpr size_t kMostBlocks = 16;

constexpr int64_t kHugePage = 2 << 20;
constexpr int64_t kLeastInHugePages = 2 * kHugePage / kCacheLine;  // smaller ones are as fast without

Line* allocate(int64_t lines) {
  if (lines < kLeastInHugePages) return new Line[lines];
  const size_t bytes = lines * sizeof(Line);
  Line* memory = static_cast<Line*>(::operator new[](bytes, std::align_val_t(kHugePage)));
  prefer_huge_pages(memory, bytes);
  return memory;
}

void release(const Block& block) {
  if (block.lines < kLeastInHugePages) return delete[] block.memory;
  ::operator delete[](block.memory, std::align_val_t(kHugePage));
}

// Whoever finds the lock taken does without: nobody waits, not even in the child of a process that forked with the lock
// taken.
class KeptBlocks {
 public:
  KeptBlocks() { blocks_.reserve(kMostBlocks + 1); }

  // The smallest that will do, or none. One of more than twice the length is left for those who need it.
  Block take(int64_t lines) {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock) return {};
    auto best = blocks_.end();
    for (auto block = blocks_.begin(); block != blocks_.end(); ++block) {
      if (block->lines < lines || block->lines > 2 * lines) continue;
      if (best == blocks_.end() || block->lines < best->lines) best = block;
    }
    if (best == blocks_.end()) return {};
    const Block block = *best;
    remove(best);
    return block;
  }

  // Whether it is kept now; those kept longest make room for it.
  bool keep(const Block& block) {
    if (block.lines > kMostTogether) return false;
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock) return false;
    blocks_.push_back(block);
    lines_ += block.lines;
    while (lines_ > kMostTogether || blocks_.size() > kMostBlocks) release_oldest();
    return true;
  }

  // Whether there was any.
  bool release_all() {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock || blocks_.empty()) return false;
    while (!blocks_.empty()) release_oldest();
    return true;
  }

 private:
  void release_oldest() {
    release(blocks_.front());
    remove(blocks_.begin());
  }

  void remove(std::vector<Block>::iterator block) {
    lines_ -= block->lines;
    blocks_.erase(block);
  }

  std::mutex mutex_;
  std::vector<Block> blocks_;  // the oldest first
  int64_t lines_ = 0;
};

// Never destroyed: a thread may still be in a call when the process ends.
KeptBlocks& kept_blocks() {
  static KeptBlocks& kept = *new KeptBlocks;
  return kept;
}

}  // namespace

void prefer_huge_pages([[maybe_unused]] void* memory, [[maybe_unused]] int64_t bytes) {
#ifdef MADV_HUGEPAGE
  const uintptr_t first = reinterpret_cast<uintptr_t>(memory), begin = round_up(first, kHugePage);
  const uintptr_t end = (first + bytes) / kHugePage * kHugePage;
  // Where the system refuses, nothing is lost but speed.
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

Block take_memory(int64_t lines) {
  const Block kept = lines < kLeast ? Block{} : kept_blocks().take(lines);
  if (kept.memory) return kept;
  try {
    return {allocate(lines), lines};
  } catch (const std::bad_alloc&) {
    if (!kept_blocks().release_all()) throw;
  }
  return {allocate(lines), lines};
}

void give_back_memory(const Block& block) {
  if (block.lines < kLeast || !kept_blocks().keep(block)) release(block);
}

}  // namespace rnndrop::cpu
