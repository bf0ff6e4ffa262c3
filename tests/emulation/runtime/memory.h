// Shared memory, its view from other blocks of the cluster, and cp.async.
//
// Each array of each block is an allocation of its own, so that AddressSanitizer sees where it ends; it starts as
// 0xff bytes (NaN, or -1) and is freed when the block has exited.
#pragma once

#include <cstdint>
#include <cstring>

#include "machine.h"

namespace emu {

EMU_UNCHECKED inline SharedArray* find_shared(Block& block, const void* key) {
  if (!key) return &block.shared[0];
  for (int i = 1; i <= block.shared_count; i++) {
    if (block.shared[i].key == key) return &block.shared[i];
  }
  return nullptr;
}

// The scheduler allocates, lest the race checker take the filling for this thread's writes.
EMU_UNCHECKED inline char* shared_of(Block& block, const void* key, size_t bytes, Caller at) {
  SharedArray* array = find_shared(block, key);
  if (!array) {
    current->shared_request.block = &block;
    current->shared_request.key = key;
    current->shared_request.bytes = bytes;
    suspend(State::kAllocating, at);
    array = find_shared(block, key);
  }
  acquire(&block.shared_order);
  return array->data;
}

EMU_UNCHECKED inline void* static_shared(const void* key, size_t bytes, Caller at = Caller::here()) {
  return shared_of(*current->block, key, bytes, at);
}

EMU_UNCHECKED inline void* dynamic_shared() { return shared_of(*current->block, nullptr, 0, {}); }

EMU_UNCHECKED inline bool holds(const SharedArray& array, const void* address) {
  const char* byte = static_cast<const char*>(address);
  return byte >= array.data && byte < array.data + array.bytes;
}

EMU_UNCHECKED inline bool owns(const Block& block, const void* address) {
  for (int i = 0; i <= block.shared_count; i++) {
    if (holds(block.shared[i], address)) return true;
  }
  return false;
}

// The block of the running thread's cluster whose shared memory this is; null: of none.
EMU_UNCHECKED inline Block* owner_of(const void* address) {
  const auto& blocks = current->block->cluster->blocks;
  const std::unique_ptr<Block>* of_rank = blocks.data();
  for (size_t rank = 0, count = blocks.size(); rank < count; rank++) {
    if (owns(*of_rank[rank], address)) return of_rank[rank].get();
  }
  return nullptr;
}

// Where `address`, in this block's shared memory, is in that of the cluster's block `rank`.
EMU_UNCHECKED inline void* map_shared(const void* address, unsigned rank, Caller at) {
  const auto& blocks = current->block->cluster->blocks;
  if (rank >= blocks.size()) {
    die("map_shared_rank at %s:%d: rank %u of a cluster of %zu", at.file, at.line, rank, blocks.size());
  }
  Block& target = *blocks[rank];
  if (!target.alive) die("map_shared_rank at %s:%d: block of rank %u has exited", at.file, at.line, rank);
  const char* byte = static_cast<const char*>(address);
  for (int i = 0; i <= current->block->shared_count; i++) {
    const SharedArray& own = current->block->shared[i];
    if (holds(own, address)) {
      return shared_of(target, own.key, own.bytes, at) + (byte - own.data);
    }
  }
  die("map_shared_rank at %s:%d: not a shared-memory address", at.file, at.line);
}

// Through the second cache alone.
inline void perform(const AsyncCopy& copy) {
  if constexpr (weak::kOn) {
    weak::load_past_l1(current->block->view, copy.to, copy.from, copy.valid_bytes);
  } else {
    std::memcpy(copy.to, copy.from, copy.valid_bytes);
  }
  std::memset(static_cast<char*>(copy.to) + copy.valid_bytes, 0, copy.bytes - copy.valid_bytes);
}

EMU_UNCHECKED inline void count_copied(int bytes) { stats.bytes_copied_async += bytes; }

// A copy may arrive at any time until it is waited for: fifo makes it at once, the others as late as allowed.
inline void copy_async(void* to, const void* from, int bytes, int valid_bytes) {
  const weak::Unwatched unwatched;
  if (reinterpret_cast<uintptr_t>(to) % bytes || reinterpret_cast<uintptr_t>(from) % bytes) {
    die("cp.async of %d bytes: %p <- %p is misaligned", bytes, to, from);
  }
  count_copied(valid_bytes);
  const AsyncCopy copy{to, from, bytes, valid_bytes};
  if (running->schedule.order == Order::kFifo) {
    perform(copy);
  } else {
    this_thread().open_copies.push_back(copy);
  }
}

inline void commit_copies() {
  const weak::Unwatched unwatched;
  Thread& thread = this_thread();
  thread.committed_copies.push_back(std::move(thread.open_copies));
  thread.open_copies.clear();
}

inline void wait_for_copies(size_t groups_left) {
  const weak::Unwatched unwatched;
  Thread& thread = this_thread();
  while (thread.committed_copies.size() > groups_left) {
    for (const AsyncCopy& copy : thread.committed_copies.front()) perform(copy);
    thread.committed_copies.pop_front();
  }
}

inline void check_no_copy_pending() {
  const weak::Unwatched unwatched;
  Thread& thread = this_thread();
  bool pending = !thread.open_copies.empty();
  for (const auto& group : thread.committed_copies) pending |= !group.empty();
  if (pending) die("thread exits with a cp.async not waited for");
}

}  // namespace emu
