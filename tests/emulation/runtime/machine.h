// The machine that is emulated: threads, warps, blocks, clusters and the grid of one launch, as plain data.
//
// Everything runs on one OS thread. The scheduler (scheduler.h) has that thread's own stack; a CUDA thread that must
// wait notes what for in its `state` and switches back to it. Only the scheduler decides who goes on.
#pragma once

#include <cuda_runtime.h>  // the host half of the toolkit's headers: dim3, float4, cudaStream_t ...

#include <cstdarg>
#include <cstdio>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "config.h"
#include "fiber.h"
#include "weak_memory.h"

// The GPU: an H100 or H200, or, of a build that asks for it by 80, an A100, which has no clusters.
#ifndef EMULATED_SM
#define EMULATED_SM 90
#endif

namespace emu {

constexpr bool kHopper = EMULATED_SM >= 90;
constexpr int kWarpSize = 32;
constexpr unsigned kMaxBlockThreads = 1024;
constexpr unsigned kMaxClusterBlocks = kHopper ? 16 : 1;
constexpr size_t kMaxSharedBytes = kHopper ? 232448 : 166912;
constexpr unsigned kMultiprocessors = kHopper ? 132 : 108;
constexpr unsigned kMultiprocessorThreads = 2048;
constexpr size_t kReservedSharedBytes = 1024;  // taken by the system from every block
// Limits of the emulation.
constexpr int kMaxSharedArrays = 32;
constexpr int kMaxMBarriers = 64;        // of a block
constexpr size_t kMaxDepositBytes = 64;  // what a lane brings to a warp collective

// Where in the kernel's source something was called; the default argument that makes it so is Caller::here().
struct Caller {
  const char* file = "";
  int line = 0;

  static Caller here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
};

enum class State {
  kRunnable,
  kPreempted,  // runnable, but others go first
  kSpinning,
  kAtBlockBarrier,
  kAtWarpCollective,
  kArrivesAtCluster,  // runnable once its arrival is counted
  kAtClusterBarrier,
  kAtGridBarrier,
  kAllocating,
  kIssuing,  // an asynchronous store or bulk copy
  kFailed,
  kExited,
};

inline const char* describe(State state) {
  switch (state) {
    case State::kPreempted: return "is at an atomic";
    case State::kSpinning: return "spins";
    case State::kAtBlockBarrier: return "waits in __syncthreads";
    case State::kAtWarpCollective: return "waits in a warp collective";
    case State::kAtClusterBarrier: return "waits in cluster.sync";
    case State::kAtGridBarrier: return "waits in grid.sync";
    case State::kExited: return "has exited";
    default: return "is runnable";
  }
}

struct Block;
struct Cluster;
struct Thread;

// `order` is for the race checker, one variable each for even and odd generations: a thread already at the next
// barrier must not look ordered before one still leaving this one.
struct Barrier {
  std::vector<Thread*> members;
  size_t arrived = 0;
  Thread* first = nullptr;  // the first that arrived
  unsigned generation = 0;
  char order[2] = {};
};

struct AsyncCopy {
  void* to;
  const void* from;
  int bytes, valid_bytes;  // the rest becomes zeros
};

struct WarpRequest {
  const char* name = "";
  unsigned mask = 0;
  const void* deposit = nullptr;
  size_t bytes = 0;
  unsigned full_done = 0;  // collectives of the whole warp that this thread has been in
  unsigned snapshot = 0;   // the number of the collective that answered
};

struct SharedRequest {
  Block* block = nullptr;
  const void* key = nullptr;
  size_t bytes = 0;
};

// An asynchronous store or bulk copy on its way to one block.
struct Flight {
  const char* name = "";
  Caller at;
  Block* target = nullptr;
  char* to = nullptr;
  const char* from = nullptr;  // null: `data`
  unsigned bytes = 0;
  char data[16] = {};
  const void* mbarrier = nullptr;  // the target's
  bool from_another_block = false;
};

// What an mbarrier counts. The 8 bytes that the kernel reserves for it only hold a mark.
struct MBarrier {
  const void* address = nullptr;
  int expected = 0, pending = 0;            // arrivals
  int bytes = 0;                            // transaction count
  unsigned phase = 0;                       // the current one
  bool remote = false, was_remote = false;  // another block took part in this phase, in the one before
  char order[2] = {};                       // for the race checker, as in a Barrier
};

struct Thread {
  Fiber fiber;
  Block* block = nullptr;
  uint3 index{};
  int rank = 0;  // in its block
  State state = State::kRunnable;
  Caller at;
  std::string error;  // of kFailed
  WarpRequest warp_request;
  char warp_order = 0;
  bool arrived_at_cluster = false;  // and has not waited yet
  unsigned cluster_generation = 0;  // of the barrier that it arrived at
  SharedRequest shared_request;
  Flight flight;              // of kIssuing; its addresses are this block's
  unsigned flight_ranks = 0;  // mask of the blocks it goes to
  char flight_order = 0;
  std::vector<AsyncCopy> open_copies;                   // not yet committed
  std::deque<std::vector<AsyncCopy>> committed_copies;  // groups, oldest first

  int lane() const { return rank % kWarpSize; }
};

struct Warp {
  static constexpr unsigned kSnapshots = 8;  // lanes may still read older collectives' answers
  alignas(16) char snapshots[kSnapshots][kWarpSize * kMaxDepositBytes];
  // Masks of those that exist, that wait in a collective, that have exited.
  unsigned lanes = 0, waiting = 0, exited = 0;
  unsigned collectives = 0;
  char order[2] = {};
};

// `key` tells a kernel's arrays apart; the dynamic one has none.
struct SharedArray {
  const void* key = nullptr;
  char* data = nullptr;
  size_t bytes = 0;
  std::vector<char> unfenced;  // 16 bytes each: written since the last fence.proxy.async; for weak memory alone
};

struct Block {
  uint3 index{};
  Cluster* cluster = nullptr;
  size_t alive = 0;  // threads
  std::vector<std::unique_ptr<Thread>> threads;
  std::vector<std::unique_ptr<Warp>> warps;
  Barrier barrier;
  SharedArray shared[1 + kMaxSharedArrays];  // [0] is the dynamic one
  int shared_count = 0;
  char shared_order = 0;
  MBarrier mbarriers[kMaxMBarriers];
  int mbarrier_count = 0;
  weak::View view;
};

struct Cluster {
  std::vector<std::unique_ptr<Block>> blocks;
  Barrier barrier;
  size_t exited_blocks = 0;
};

struct Launch {
  dim3 grid, block;
  size_t shared_bytes = 0;
  bool cooperative = false;
  unsigned cluster = 1;  // blocks
  const char* name = "";
};

struct Grid {
  Launch launch;
  Schedule schedule;
  std::function<void()> body;  // the kernel, its arguments bound
  std::vector<std::unique_ptr<Cluster>> clusters;
  Barrier barrier;
  Fiber scheduler;
  unsigned dice = 1;  // state of the generator behind maybe_preempt
  char start_order = 0, end_order = 0;
};

inline Grid* running = nullptr;    // the launch in progress
inline Thread* current = nullptr;  // the thread in progress; null while the scheduler runs

EMU_UNCHECKED inline Thread& this_thread() { return *current; }
EMU_UNCHECKED inline const uint3& thread_index() { return current->index; }
EMU_UNCHECKED inline const uint3& block_index() { return current->block->index; }
EMU_UNCHECKED inline const dim3& block_dim() { return running->launch.block; }
EMU_UNCHECKED inline const dim3& grid_dim() { return running->launch.grid; }
EMU_UNCHECKED inline int lane() { return current->lane(); }

__attribute__((format(printf, 1, 0))) inline std::string vformat(const char* text, va_list arguments) {
  char buffer[1024];
  vsnprintf(buffer, sizeof buffer, text, arguments);
  return buffer;
}

__attribute__((format(printf, 1, 2))) inline std::string format(const char* text, ...) {
  va_list arguments;
  va_start(arguments, text);
  std::string result = vformat(text, arguments);
  va_end(arguments);
  return result;
}

// Back to the scheduler; returns when it lets this thread go on.
EMU_UNCHECKED inline void suspend(State state, Caller at) {
  Thread* thread = current;
  thread->state = state;
  thread->at = at;
  const bool watching = weak::watching;
  weak::watching = false;
  switch_fiber(thread->fiber, running->scheduler, state == State::kExited);
  weak::watching = watching;
}

// Ends the launch: LAUNCH throws this message.
[[noreturn]] __attribute__((format(printf, 1, 2))) inline void die(const char* text, ...) {
  const weak::Unwatched unwatched;
  va_list arguments;
  va_start(arguments, text);
  this_thread().error = vformat(text, arguments);
  va_end(arguments);
  suspend(State::kFailed, {});
  abort();
}

}  // namespace emu
