// ATen's threads: the check that every kernel on several threads makes first, and teams of threads with barriers, which
// at::parallel_for lacks.
//
// This is compiled with -fopenmp and linked without it: the OpenMP runtime, and with it the threads, are those that
// torch has loaded.
#pragma once

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <mutex>
#include <optional>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace rnndrop::cpu {

// OpenMP's threads do not survive a fork: a child that inherits the pool would wait for them forever. So the child is
// told; one that asks for a single thread needs no pool.
inline void check_not_forked() {
  if (at::get_num_threads() == 1) return;
  static const pid_t owner = getpid();
  TORCH_CHECK(getpid() == owner,
              "rnndrop_cuda has run on several threads before this process was forked, and threads do not survive a "
              "fork: call torch.set_num_threads(1) in the child, or start processes with the method 'spawn'");
}

struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

struct Team {
  int64_t rank, size;

  void barrier() const {
#ifdef _OPENMP
#pragma omp barrier
#endif
  }

  // This member's part of [0, n), in whole multiples of granule.
  Range share(int64_t n, int64_t granule = 1) const {
    const int64_t pieces = (n + granule - 1) / granule;
    return {std::min(n, pieces * rank / size * granule), std::min(n, pieces * (rank + 1) / size * granule)};
  }
};

// run(team, prepare(team)) on every thread at once; on this thread alone where there is too little to do, or only one
// thread. prepare makes what a member has of its own, and may throw: then no member runs, and the error is thrown from
// here. All have prepared before any runs. run must not throw, so that it must not allocate either: the others would
// wait at a barrier for a member that is gone.
template <class Prepare, class Run>
void with_team(bool enough_for_several, const Prepare& prepare, const Run& run) {
#ifdef _OPENMP
  if (enough_for_several && at::get_num_threads() > 1 && !at::in_parallel_region()) {
    std::mutex one_at_a_time;
    std::exception_ptr error;
#pragma omp parallel
    {
      const Team team{omp_get_thread_num(), omp_get_num_threads()};
      std::optional<decltype(prepare(team))> member;
      try {
        member.emplace(prepare(team));
      } catch (...) {
        const std::lock_guard<std::mutex> lock(one_at_a_time);
        error = std::current_exception();
      }
      team.barrier();
      if (!error) run(team, *member);
    }
    if (error) std::rethrow_exception(error);
    return;
  }
#endif
  const Team team{0, 1};
  const auto member = prepare(team);
  run(team, member);
}

}  // namespace rnndrop::cpu
