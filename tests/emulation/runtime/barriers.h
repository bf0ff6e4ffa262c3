// Barriers of a block, a cluster and a grid, and giving way to other threads, as a kernel calls them.
#pragma once

#include "machine.h"

namespace emu {

EMU_UNCHECKED inline void wait_at(Barrier& barrier, State state, Caller at) {
  char* order = &barrier.order[barrier.generation % 2];
  release(order);
  suspend(state, at);
  acquire(order);
}

EMU_UNCHECKED inline void sync_block(Caller at) { wait_at(current->block->barrier, State::kAtBlockBarrier, at); }

// All that the block has stored, or learnt of, is seen by who acquires it.
EMU_UNCHECKED inline void release_block() {
  if constexpr (weak::kOn) {
    const weak::Unwatched unwatched;
    weak::release_all(current->block->view);
  }
}

// The block sees what others have released.
EMU_UNCHECKED inline void acquire_block() {
  if constexpr (weak::kOn) {
    const weak::Unwatched unwatched;
    weak::acquire_all(current->block->view);
  }
}

// What was done before the arrival is seen by whoever has waited; what is done in between, by nobody.
EMU_UNCHECKED inline void arrive_at_cluster(Caller at) {
  Barrier& barrier = current->block->cluster->barrier;
  if (current->arrived_at_cluster) {
    die("cluster barrier at %s:%d: a second arrival without a wait in between", at.file, at.line);
  }
  current->arrived_at_cluster = true;
  current->cluster_generation = barrier.generation;
  release_block();
  release(&barrier.order[barrier.generation % 2]);
  suspend(State::kArrivesAtCluster, at);
}

EMU_UNCHECKED inline void wait_for_cluster(Caller at) {
  Barrier& barrier = current->block->cluster->barrier;
  if (!current->arrived_at_cluster) die("cluster barrier at %s:%d: a wait without an arrival", at.file, at.line);
  current->arrived_at_cluster = false;
  if (barrier.generation == current->cluster_generation) suspend(State::kAtClusterBarrier, at);
  acquire(&barrier.order[current->cluster_generation % 2]);
  acquire_block();
}

EMU_UNCHECKED inline void sync_cluster(Caller at) {
  arrive_at_cluster(at);
  wait_for_cluster(at);
}

EMU_UNCHECKED inline void sync_grid(Caller at) {
  if (!running->launch.cooperative) die("grid.sync at %s:%d in a launch that is not cooperative", at.file, at.line);
  release_block();
  wait_at(running->barrier, State::kAtGridBarrier, at);
  acquire_block();
}

// Every loop that waits for another thread must call it, or it would wait for ever.
EMU_UNCHECKED inline void spin_pause(Caller at = Caller::here()) { suspend(State::kSpinning, at); }

// Before an atomic: under a random schedule, now and then, others go first.
EMU_UNCHECKED inline void maybe_preempt() {
  if (running->schedule.order != Order::kRandom) return;
  running->dice = running->dice * 1664525u + 1013904223u;
  if (running->dice >> 29 == 0) suspend(State::kPreempted, {});
}

}  // namespace emu
