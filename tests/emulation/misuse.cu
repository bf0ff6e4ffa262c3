// Kernels and launches that are wrong in themselves, one a name: program <name> prints what the emulation says.
#include <cstdio>
#include <exception>
#include <functional>
#include <map>
#include <string>

#include "async_exchange.cuh"
#include "portable.cuh"

namespace {

constexpr unsigned kAll = 0xffffffffu;
const LaunchCfg kOneWarp{dim3(1), dim3(32)}, kOneThread{dim3(1), dim3(1)};

__global__ void empty(int) {}

__global__ void divergent_collective(int) {
  if (threadIdx.x < 16) {
    __ballot_sync(kAll, 1);
  } else {
    __shfl_sync(kAll, 1, 0);
  }
}

__global__ void collective_after_exit(int leaver) {
  if (static_cast<int>(threadIdx.x) == leaver) return;
  __syncwarp();
}

__global__ void not_in_own_mask(int) { __syncwarp(0xfffffffeu); }

__global__ void shuffle_from_outside(int) {
  if (threadIdx.x < 16) __shfl_sync(0x0000ffffu, 1, 20);
}

__global__ void one_block_leaves(int) {
  if (blockIdx.x == 0) cg::this_grid().sync();
}

__global__ void spin_for_ever(const unsigned* flag) {
  while (!ld_acquire(flag)) spin_pause();
}

__global__ void grid_sync(int) { cg::this_grid().sync(); }

__global__ void static_shared_too_large(int) {
  SHARED(first, char[131072]);
  SHARED(second, char[131072]);
  first[0] = second[0] = 0;
}

template <int kMore>
__device__ void take_shared() {
  SHARED(array, int);
  array = 0;
  if constexpr (kMore > 1) take_shared<kMore - 1>();
}
__global__ void too_many_shared_arrays(int) { take_shared<33>(); }

__global__ void misaligned_copy(const char* from) {
  DYN_SHARED(char, smem);
  cp_async16(smem, from + 4);
}

__global__ void forgotten_copy(const char* from) {
  DYN_SHARED(char, smem);
  cp_async16(smem, from);
  cp_async_commit();
}

__global__ void misaligned_ldmatrix(int) {
  DYN_SHARED(char, smem);
  uint32_t r[4];
  ldmatrix_x4(r, smem + 4);
}

__global__ void rank_outside_cluster(int) {
  DYN_SHARED(int, smem);
  cg::this_cluster().map_shared_rank(smem, 2);
}

__global__ void cluster_arrival_twice(int) {
  cg::this_cluster().barrier_arrive();
  cg::this_cluster().barrier_arrive();
}

__global__ void cluster_wait_without_arrival(int) { cg::this_cluster().barrier_wait(); }

__global__ void map_of_local_memory(int) {
  int local = 0;
  cg::this_cluster().map_shared_rank(&local, 0);
}

__device__ int deep(int calls) {
  volatile char frame[1024];
  frame[0] = static_cast<char>(calls);
  return calls ? deep(calls - 1) + frame[0] : 0;
}
__global__ void stack_overflow(int* out) { *out = deep(1000); }

alignas(16) char bytes[32];

__global__ void mbarrier_misuse(const char* what) {
  SHARED(mbarrier, uint64_t[2]);
  SHARED(to, float4);
  const std::string name = what;
  if (name != "not_initialised") mbarrier_init(mbarrier, 1);
  if (name == "twice") mbarrier_init(mbarrier, 1);
  if (name == "misaligned") mbarrier_init(reinterpret_cast<uint64_t*>(reinterpret_cast<char*>(mbarrier) + 4), 1);
  if (name == "no_arrivals") mbarrier_init(mbarrier + 1, 0);
  if (name == "overwritten") mbarrier[0] = 0;
  if (name == "overfull") mbarrier_arrive_expect_tx(mbarrier, 16);
  if (name == "too_many_bytes") mbarrier_arrive_expect_tx(mbarrier, 1 << 20);
  if (name == "parity") mbarrier_wait(mbarrier, 2);
  if (name == "one_block") st_async(map_to_rank(&to, 0), {}, map_to_rank(mbarrier, 0));
  if (name == "multicast") bulk_copy_multicast(&to, bytes, 16, mbarrier, 2);
  if (name == "not_multiples") bulk_copy(&to, bytes, 8, mbarrier);
  if (name == "not_shared") bulk_copy(&to, bytes, 16, reinterpret_cast<uint64_t*>(&to + 4));
  mbarrier_arrive(mbarrier);
  mbarrier_wait(mbarrier, 0);
}

unsigned never_set = 0;
int out;

const std::map<std::string, std::function<void()>> kCases = {
    {"divergent_collective", [] { LAUNCH(kOneWarp, divergent_collective, 0); }},
    {"collective_after_exit", [] { LAUNCH(kOneWarp, collective_after_exit, 3); }},
    {"not_in_own_mask", [] { LAUNCH(kOneWarp, not_in_own_mask, 0); }},
    {"shuffle_from_outside", [] { LAUNCH(kOneWarp, shuffle_from_outside, 0); }},
    {"one_block_leaves", [] { LAUNCH((LaunchCfg{dim3(2), dim3(32), 0, nullptr, true}), one_block_leaves, 0); }},
    {"spin_for_ever", [] { LAUNCH(kOneWarp, spin_for_ever, &never_set); }},
    {"grid_sync", [] { LAUNCH(kOneWarp, grid_sync, 0); }},
    {"no_threads", [] { LAUNCH((LaunchCfg{dim3(1), dim3(0)}), empty, 0); }},
    {"too_many_threads", [] { LAUNCH((LaunchCfg{dim3(1), dim3(1025)}), empty, 0); }},
    {"dynamic_shared_too_large", [] { LAUNCH((LaunchCfg{dim3(1), dim3(32), 232449}), empty, 0); }},
    {"static_shared_too_large", [] { LAUNCH(kOneWarp, static_shared_too_large, 0); }},
    {"too_many_shared_arrays", [] { LAUNCH(kOneWarp, too_many_shared_arrays, 0); }},
    {"cluster_does_not_divide", [] { LAUNCH((LaunchCfg{dim3(3), dim3(32), 0, nullptr, false, 2}), empty, 0); }},
    {"cluster_too_large", [] { LAUNCH((LaunchCfg{dim3(32), dim3(32), 0, nullptr, false, 32}), empty, 0); }},
    {"cooperative_too_large", [] { LAUNCH((LaunchCfg{dim3(265), dim3(1024), 0, nullptr, true}), empty, 0); }},
    {"misaligned_copy", [] { LAUNCH((LaunchCfg{dim3(1), dim3(1), 16}), misaligned_copy, bytes); }},
    {"forgotten_copy", [] { LAUNCH((LaunchCfg{dim3(1), dim3(1), 16}), forgotten_copy, bytes); }},
    {"misaligned_ldmatrix", [] { LAUNCH((LaunchCfg{dim3(1), dim3(32), 32}), misaligned_ldmatrix, 0); }},
    {"rank_outside_cluster",
     [] { LAUNCH((LaunchCfg{dim3(2), dim3(1), 16, nullptr, false, 2}), rank_outside_cluster, 0); }},
    {"cluster_arrival_twice",
     [] { LAUNCH((LaunchCfg{dim3(2), dim3(1), 0, nullptr, false, 2}), cluster_arrival_twice, 0); }},
    {"cluster_wait_without_arrival",
     [] { LAUNCH((LaunchCfg{dim3(2), dim3(1), 0, nullptr, false, 2}), cluster_wait_without_arrival, 0); }},
    {"map_of_local_memory",
     [] { LAUNCH((LaunchCfg{dim3(2), dim3(1), 0, nullptr, false, 2}), map_of_local_memory, 0); }},
    {"stack_overflow", [] { LAUNCH((LaunchCfg{dim3(1), dim3(1)}), stack_overflow, &out); }},
    {"mbarrier_not_initialised", [] { LAUNCH(kOneThread, mbarrier_misuse, "not_initialised"); }},
    {"mbarrier_twice", [] { LAUNCH(kOneThread, mbarrier_misuse, "twice"); }},
    {"mbarrier_misaligned", [] { LAUNCH(kOneThread, mbarrier_misuse, "misaligned"); }},
    {"mbarrier_no_arrivals", [] { LAUNCH(kOneThread, mbarrier_misuse, "no_arrivals"); }},
    {"mbarrier_overwritten", [] { LAUNCH(kOneThread, mbarrier_misuse, "overwritten"); }},
    {"mbarrier_overfull", [] { LAUNCH(kOneThread, mbarrier_misuse, "overfull"); }},
    {"mbarrier_too_many_bytes", [] { LAUNCH(kOneThread, mbarrier_misuse, "too_many_bytes"); }},
    {"mbarrier_parity", [] { LAUNCH(kOneThread, mbarrier_misuse, "parity"); }},
    {"mbarrier_one_block", [] { LAUNCH(kOneThread, mbarrier_misuse, "one_block"); }},
    {"mbarrier_multicast", [] { LAUNCH(kOneThread, mbarrier_misuse, "multicast"); }},
    {"mbarrier_not_multiples", [] { LAUNCH(kOneThread, mbarrier_misuse, "not_multiples"); }},
    {"mbarrier_not_shared", [] { LAUNCH(kOneThread, mbarrier_misuse, "not_shared"); }},
    {"mbarrier_used_well", [] { LAUNCH(kOneThread, mbarrier_misuse, ""); }},
    {"nothing", [] { LAUNCH(kOneWarp, empty, 0); }},
};

}  // namespace

// Runs the case twice: what a failed launch leaves behind must not spoil the next.
int main(int, char** argv) {
  std::string said[2];
  for (std::string& message : said) {
    try {
      kCases.at(argv[1])();
    } catch (const std::exception& error) {
      message = error.what();
    }
  }
  std::printf("%s\n", said[0].c_str());
  return said[0].empty() != said[1].empty();
}
