// torch's threads: loops over them, and teams with barriers, which at::parallel_for lacks.
//
// Nothing here is compiled with OpenMP, since a compiler then wants its own runtime and not the one that torch has
// loaded: GCC's code calls libgomp, Clang's libomp. threads.cpp asks the one that is there.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <optional>

#include "cpu/from_torch.h"

namespace rnndrop::cpu {

struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

class Meeting;  // where the members of a team wait for each other, if not at libgomp's

struct Team {
  int64_t rank, size;
  Meeting* meeting = nullptr;

  void barrier() const;

  // This member's part of [0, n), in whole multiples of granule.
  Range share(int64_t n, int64_t granule = 1) const {
    const int64_t pieces = (n + granule - 1) / granule;
    return {std::min(n, pieces * rank / size * granule), std::min(n, pieces * (rank + 1) / size * granule)};
  }
};

// work(context, team) on every thread at once, or on this one alone where no others are to be had. It must not throw.
void run_team(void (*work)(const void* context, const Team& team), const void* context);

// "libgomp", or "torch's pool" where torch has another runtime or none: whose threads these are.
const char* threads_of();

inline bool has_threads() { return most_threads() > 1; }

template <class Work>
void run_team(const Work& work) {
  check_not_forked();
  run_team([](const void* context, const Team& team) { (*static_cast<const Work*>(context))(team); }, &work);
}

// run(team, prepare(team)) on every thread at once; on this thread alone where there is too little to do, or only one
// thread. prepare makes what a member has of its own, and may throw: then no member runs, and the error is thrown from
// here. All have prepared before any runs. run must not throw, so that it must not allocate either: the others would
// wait at a barrier for a member that is gone.
template <class Prepare, class Run>
void with_team(bool enough_for_several, const Prepare& prepare, const Run& run) {
  if (!enough_for_several || !has_threads()) {
    const Team alone{0, 1};
    const auto member = prepare(alone);
    return run(alone, member);
  }
  std::atomic_flag failed = ATOMIC_FLAG_INIT;
  std::exception_ptr error;
  run_team([&](const Team& team) {
    std::optional<decltype(prepare(team))> member;
    try {
      member.emplace(prepare(team));
    } catch (...) {
      if (!failed.test_and_set()) error = std::current_exception();
    }
    team.barrier();
    if (!error) run(team, *member);
  });
  if (error) std::rethrow_exception(error);
}

// work(begin, end) for parts of [0, n) of at least `grain`, on several threads where there are several parts. The first
// exception is this call's too.
template <class Work>
void parallel_for(int64_t n, int64_t grain, const Work& work) {
  if (n <= 0) return;
  if (n <= grain || !has_threads()) return work(int64_t{0}, n);
  std::atomic_flag failed = ATOMIC_FLAG_INIT;
  std::exception_ptr error;
  run_team([&](const Team& team) {
    const int64_t parts = std::min(team.size, (n + grain - 1) / grain);
    const Range mine = team.rank < parts ? Team{team.rank, parts}.share(n) : Range{n, n};
    if (mine.size() == 0) return;
    try {
      work(mine.begin, mine.end);
    } catch (...) {
      if (!failed.test_and_set()) error = std::current_exception();
    }
  });
  if (error) std::rethrow_exception(error);
}

}  // namespace rnndrop::cpu
