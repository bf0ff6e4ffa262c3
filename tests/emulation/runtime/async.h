// mbarriers, and the asynchronous stores and bulk copies that complete on them, as the PTX ISA has them (9.7.9.12
// st.async, 9.7.9.25 asynchronous copy, 9.7.13.15 mbarrier).
//
// A phase completes when all arrivals are in and as many bytes have come as were expected; bytes may come before they
// are expected. What is on its way arrives when the scheduler likes: at once (fifo), as late as can be (lifo), or at
// random, each for itself.
#pragma once

#include "atomics.h"
#include "memory.h"

namespace emu {

constexpr int kMaxMBarrierCount = (1 << 20) - 1;
constexpr uint64_t kMBarrierMark = 0x4d42617272696572;

EMU_UNCHECKED inline MBarrier* find_mbarrier(Block& block, const void* address) {
  for (int i = 0; i < block.mbarrier_count; i++) {
    if (block.mbarriers[i].address == address) return &block.mbarriers[i];
  }
  return nullptr;
}

// Looked at by the race checker: that the mbarrier is set up comes before its use.
__attribute__((noinline)) inline void check_mark(const uint64_t* mbarrier, const char* what, Caller at) {
  if (*mbarrier != kMBarrierMark) {
    die("%s at %s:%d: there is no mbarrier, or it has been overwritten", what, at.file, at.line);
  }
}

__attribute__((noinline)) inline void set_mark(uint64_t* mbarrier) { *mbarrier = kMBarrierMark; }

// `remote`: of any block of the cluster; else of this one.
EMU_UNCHECKED inline MBarrier& mbarrier_at(const uint64_t* address, bool remote, const char* what, Caller at) {
  Block* owner = owner_of(address);
  if (!owner || (!remote && owner != current->block)) {
    die("%s at %s:%d: not in shared memory of %s", what, at.file, at.line, remote ? "the cluster" : "this block");
  }
  MBarrier* found = find_mbarrier(*owner, address);
  if (!found) die("%s at %s:%d: the mbarrier has not been initialised", what, at.file, at.line);
  check_mark(address, what, at);
  return *found;
}

EMU_UNCHECKED inline MBarrier* add_mbarrier(const uint64_t* address, int arrivals) {
  Block& block = *current->block;
  if (block.mbarrier_count == kMaxMBarriers) return nullptr;
  MBarrier& added = block.mbarriers[block.mbarrier_count++];
  added.address = address;
  added.expected = added.pending = arrivals;
  return &added;
}

EMU_UNCHECKED inline void mbarrier_init(uint64_t* address, unsigned arrivals, Caller at = Caller::here()) {
  check_aligned("mbarrier_init", address, sizeof *address, at);
  if (!owns(*current->block, address)) die("mbarrier_init at %s:%d: not in this block's memory", at.file, at.line);
  if (find_mbarrier(*current->block, address)) die("mbarrier_init at %s:%d: initialised twice", at.file, at.line);
  if (!arrivals || arrivals > kMaxMBarrierCount || !add_mbarrier(address, static_cast<int>(arrivals))) {
    die("mbarrier_init at %s:%d: %u arrivals, or over %d mbarriers", at.file, at.line, arrivals, kMaxMBarriers);
  }
  set_mark(address);
}

EMU_UNCHECKED inline void complete_phase(MBarrier& mbarrier) {
  if (mbarrier.pending || mbarrier.bytes) return;
  mbarrier.phase++;
  mbarrier.pending = mbarrier.expected;
  mbarrier.was_remote = mbarrier.remote;
  mbarrier.remote = false;
}

// false: more than an mbarrier can count
EMU_UNCHECKED inline bool expect_bytes(MBarrier& mbarrier, int bytes) {
  mbarrier.bytes += bytes;
  return mbarrier.bytes <= kMaxMBarrierCount && mbarrier.bytes >= -kMaxMBarrierCount;
}

EMU_UNCHECKED inline bool arrive_at(MBarrier& mbarrier, bool remote) {
  if (!mbarrier.pending) return false;
  release(&mbarrier.order[mbarrier.phase % 2]);
  mbarrier.pending--;
  mbarrier.remote |= remote;
  complete_phase(mbarrier);
  return true;
}

EMU_UNCHECKED inline void arrive(const uint64_t* address, int bytes, bool remote, const char* what, Caller at) {
  maybe_preempt();
  MBarrier& mbarrier = mbarrier_at(address, remote, what, at);
  if (!expect_bytes(mbarrier, bytes)) die("%s at %s:%d: too many bytes are expected", what, at.file, at.line);
  if (!arrive_at(mbarrier, remote)) {
    die("%s at %s:%d: all arrivals of this phase are in; it waits for bytes", what, at.file, at.line);
  }
}

// Of this block, for this block: release at cta scope.
inline void mbarrier_arrive(uint64_t* address, Caller at = Caller::here()) {
  arrive(address, 0, false, "mbarrier_arrive", at);
}
inline void mbarrier_arrive_expect_tx(uint64_t* address, unsigned bytes, Caller at = Caller::here()) {
  arrive(address, static_cast<int>(bytes), false, "mbarrier_arrive_expect_tx", at);
}

EMU_UNCHECKED inline bool phase_is_complete(MBarrier& mbarrier, unsigned parity) {
  if (mbarrier.phase % 2 == parity) return false;
  acquire(&mbarrier.order[parity]);
  return true;
}

EMU_UNCHECKED inline bool try_wait(const uint64_t* address, unsigned parity, bool of_block, const char* what,
                                   Caller at) {
  maybe_preempt();
  MBarrier& mbarrier = mbarrier_at(address, false, what, at);
  if (parity > 1) die("%s at %s:%d: parity %u", what, at.file, at.line, parity);
  if (!phase_is_complete(mbarrier, parity)) return false;
  if (of_block && mbarrier.was_remote) die("%s at %s:%d: another block is in the phase", what, at.file, at.line);
  if (!of_block) acquire_block();
  return true;
}

inline bool mbarrier_try_wait(uint64_t* address, unsigned parity, Caller at = Caller::here()) {
  return try_wait(address, parity, true, "mbarrier_try_wait", at);
}
inline bool mbarrier_try_wait_cluster(uint64_t* address, unsigned parity, Caller at = Caller::here()) {
  return try_wait(address, parity, false, "mbarrier_try_wait_cluster", at);
}
inline void mbarrier_wait(uint64_t* address, unsigned parity, Caller at = Caller::here()) {
  while (!try_wait(address, parity, true, "mbarrier_wait", at)) spin_pause(at);
}
inline void mbarrier_wait_cluster(uint64_t* address, unsigned parity, Caller at = Caller::here()) {
  while (!try_wait(address, parity, false, "mbarrier_wait_cluster", at)) spin_pause(at);
}

// ---- to the blocks of a cluster

using ClusterAddress = char*;

inline ClusterAddress map_to_rank(const void* shared, unsigned rank, Caller at = Caller::here()) {
  return static_cast<char*>(map_shared(shared, rank, at));
}

// Release at cluster scope.
inline void mbarrier_arrive_cluster(ClusterAddress address, Caller at = Caller::here()) {
  release_block();
  arrive(reinterpret_cast<uint64_t*>(address), 0, true, "mbarrier_arrive_cluster", at);
}

// The scheduler takes it over, and later makes it arrive.
EMU_UNCHECKED inline void issue(const char* name, Caller at, void* to, const void* from, const Bits128* value,
                                unsigned bytes, const void* mbarrier, unsigned ranks) {
  Flight& flight = current->flight;
  flight.name = name;
  flight.at = at;
  flight.to = static_cast<char*>(to);
  flight.from = static_cast<const char*>(from);
  flight.bytes = bytes;
  flight.mbarrier = mbarrier;
  if (value) {
    for (size_t i = 0; i < sizeof *value; i++) flight.data[i] = reinterpret_cast<const char*>(value)[i];
  }
  current->flight_ranks = ranks;
  release(&current->flight_order);
  suspend(State::kIssuing, at);
}

EMU_UNCHECKED inline void st_async(ClusterAddress to, Bits128 value, ClusterAddress mbarrier,
                                   Caller at = Caller::here()) {
  if (running->launch.cluster < 2) die("st_async at %s:%d: the cluster has but one block", at.file, at.line);
  if (!owns(*current->block, to)) stats.bytes_to_other_blocks += sizeof value;
  issue("st_async", at, to, nullptr, &value, sizeof value, mbarrier, 0);
}

// ---- bulk copies, in the async proxy

// What the block has stored to shared memory before is seen by bulk copies after.
EMU_UNCHECKED inline void fence_proxy_async() {
  if constexpr (weak::kOn) {
    const weak::Unwatched unwatched;
    for (SharedArray& array : current->block->shared) std::fill(array.unfenced.begin(), array.unfenced.end(), 0);
  }
}

// The same for global memory: what all see there by now.
EMU_UNCHECKED inline void fence_proxy_async_global() {
  if constexpr (weak::kOn) current->block->view.fenced = weak::memory.now;
}

EMU_UNCHECKED inline void read_in_bulk(const char* what, const void* from, unsigned bytes, Caller at) {
  if (owner_of(from)) return;
  stats.bytes_copied_async += bytes;
  if constexpr (weak::kOn) {
    const weak::Unwatched unwatched;
    if (weak::changed_since_fence(current->block->view, from, bytes)) {
      die("%s at %s:%d: global memory that was written with no fence_proxy_async_global since", what, at.file, at.line);
    }
  }
}

inline void bulk_copy(void* to, const void* from, unsigned bytes, uint64_t* mbarrier, Caller at = Caller::here()) {
  read_in_bulk("bulk_copy", from, bytes, at);
  issue("bulk_copy", at, to, from, nullptr, bytes, mbarrier, 0);
}

EMU_UNCHECKED inline void bulk_copy_to_rank(ClusterAddress to, const void* from, unsigned bytes,
                                            ClusterAddress mbarrier, Caller at = Caller::here()) {
  if (!owns(*current->block, from)) die("bulk_copy_to_rank at %s:%d: not from shared memory", at.file, at.line);
  issue("bulk_copy_to_rank", at, to, from, nullptr, bytes, mbarrier, 0);
}

EMU_UNCHECKED inline void bulk_copy_multicast(void* to, const void* from, unsigned bytes, uint64_t* mbarrier,
                                              uint16_t ranks, Caller at = Caller::here()) {
  if (!ranks || ranks >> running->launch.cluster) {
    die("bulk_copy_multicast at %s:%d: to ranks %#x of %u blocks", at.file, at.line, ranks, running->launch.cluster);
  }
  read_in_bulk("bulk_copy_multicast", from, bytes, at);
  issue("bulk_copy_multicast", at, to, from, nullptr, bytes, mbarrier, ranks);
}

}  // namespace emu
