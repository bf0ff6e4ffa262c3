// Teams in two ways. RNNDROP_LIBGOMP, as setup.py decides: by the calls that GCC makes of `#pragma omp parallel`, which
// LLVM's and Intel's runtimes answer as well; whichever torch has loaded. Else by torch's own loops over elements,
// which run on its threads whatever these are made of.
#include "cpu/threads.h"

#ifdef RNNDROP_LIBGOMP

extern "C" {
void GOMP_parallel(void (*work)(void*), void* data, unsigned n_threads, unsigned flags);
void GOMP_barrier();
int omp_get_thread_num();
int omp_get_num_threads();
}

namespace rnndrop::cpu {
namespace {

struct Call {
  void (*work)(const void*, const Team&);
  const void* context;
};

}  // namespace

void run_team(void (*work)(const void*, const Team&), const void* context) {
  Call call{work, context};
  const auto member = [](void* data) {
    const Call& call = *static_cast<const Call*>(data);
    call.work(call.context, Team{omp_get_thread_num(), omp_get_num_threads()});
  };
  GOMP_parallel(member, &call, 0, 0);
}

void Team::barrier() const {
  if (size > 1) GOMP_barrier();
}

const char* threads_of() { return "libgomp"; }

}  // namespace rnndrop::cpu

#else

#include <ATen/TensorIterator.h>
#include <ATen/ops/empty.h>

#include <mutex>
#include <thread>

namespace rnndrop::cpu {

class Meeting {
 public:
  explicit Meeting(int64_t size) : size_(size) {}

  void wait() {
    const int64_t round = round_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
      arrived_.store(0, std::memory_order_relaxed);
      round_.store(round + 1, std::memory_order_release);
      return;
    }
    constexpr int kSpins = 2000;  // some microseconds; who waits longer may be waiting for this core
    for (int spins = 0; round_.load(std::memory_order_acquire) == round; ++spins) {
      if (spins > kSpins) std::this_thread::yield();
    }
  }

 private:
  const int64_t size_;
  std::atomic<int64_t> arrived_{0}, round_{0};
};

void run_team(void (*work)(const void*, const Team&), const void* context) {
  // Of two teams each could hold threads that the other one waits for.
  static std::mutex one_team;
  const std::unique_lock<std::mutex> lock(one_team, std::try_to_lock);
  if (!lock) return work(context, Team{0, 1});

  const int64_t n = most_threads();
  const at::Tensor members = at::empty({n}, at::kByte);  // an element each
  char* const first = static_cast<char*>(members.mutable_data_ptr());
  at::TensorIterator each = at::TensorIterator::borrowing_nullary_op(members);
  Meeting meeting(n);
  enum { undecided, together, alone };
  std::atomic<int> decision{undecided};
  each.for_each(
      [&](char** data, const int64_t* /*strides*/, int64_t in_a_row) {
        const int64_t rank = data[0] - first;
        // Threads that are too few get several elements in a row, the first one, which is this call's own, above all.
        // They could not meet: then it does the work by itself.
        if (rank == 0) decision = in_a_row == 1 ? together : alone;
        while (decision == undecided) std::this_thread::yield();
        if (decision == together) return work(context, Team{rank, n, &meeting});
        if (rank == 0) work(context, Team{0, 1});
      },
      /*grain_size=*/1);
}

void Team::barrier() const {
  if (meeting) meeting->wait();
}

const char* threads_of() { return "torch's pool"; }

}  // namespace rnndrop::cpu

#endif
