// Warp collectives. All of them are one exchange: every lane of the mask deposits some bytes and sees all deposits.
#pragma once

#include <cstring>

#include "machine.h"

namespace emu {

// For the race checker. All lanes are in every collective of the whole warp, so two variables in turn do, as in a
// Barrier. In one of a part of it each lane has a variable of its own; lanes that run ahead may then order a little
// too much, which hides a race but never invents one.
EMU_UNCHECKED inline void acquire_lanes(unsigned mask) {
  const auto& threads = current->block->threads;
  const int base = current->rank / kWarpSize * kWarpSize;
  for (int i = 0; i < kWarpSize; i++) {
    if (mask >> i & 1) acquire(&threads[base + i]->warp_order);
  }
}

// The deposits of all 32 lanes, `bytes` apart; those outside the mask are undefined.
EMU_UNCHECKED inline const char* exchange(unsigned mask, const void* deposit, size_t bytes, const char* name,
                                          Caller at) {
  WarpRequest& request = current->warp_request;
  Warp& warp = *current->block->warps[current->rank / kWarpSize];
  request.name = name;
  request.mask = mask & warp.lanes;
  request.deposit = deposit;
  request.bytes = bytes;
  const bool whole = request.mask == warp.lanes;
  char* order = whole ? &warp.order[request.full_done++ % 2] : &current->warp_order;
  release(order);
  suspend(State::kAtWarpCollective, at);
  if (whole) {
    acquire(order);
  } else {
    acquire_lanes(request.mask);
  }
  return warp.snapshots[request.snapshot % Warp::kSnapshots];
}

inline void sync_warp(unsigned mask, Caller at) { exchange(mask, nullptr, 0, "__syncwarp", at); }

// The value of lane `source`; a source outside the warp leaves a lane its own.
template <class T>
T shuffle(unsigned mask, T value, int source, const char* name, Caller at) {
  static_assert(sizeof(T) <= kMaxDepositBytes);
  const char* deposits = exchange(mask, &value, sizeof(T), name, at);
  if (source < 0 || source >= kWarpSize) return value;
  if (!(mask >> source & 1)) {
    die("%s at %s:%d reads lane %d, which is not in mask %08x", name, at.file, at.line, source, mask);
  }
  T result;
  std::memcpy(&result, deposits + source * sizeof(T), sizeof(T));
  return result;
}

inline unsigned ballot(unsigned mask, bool predicate, const char* name, Caller at) {
  const char* deposits = exchange(mask, &predicate, sizeof predicate, name, at);
  unsigned votes = 0;
  for (int i = 0; i < kWarpSize; i++) {
    if ((mask >> i & 1) && deposits[i]) votes |= 1u << i;
  }
  return votes;
}

}  // namespace emu
