// What a step of the persistent engines waits for, one thing at a time: barriers, what is handed over, dependent loads
// and products. These are the constants of the model in csrc/cuda/recurrence_estimate.h, in ns a round.
//
//   latency ROUNDS REPEATS MOST_BLOCKS THREADS      (bench/latency.py builds it and calls it)
//
// Prints a CSV. A time is that of a launch with ROUNDS rounds less that of one with none, so that the launch itself
// does not count. Every kernel is first run to check that its barriers hold and that its loads and products are done;
// if one fails, the exit status is 1 and a line says "FAIL ...".
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "async_exchange.cuh"

namespace {

// ---------------------------------------------------------------- kernels
// With kCheck a thread leaves the number of the round for its neighbour before the barrier and reads its neighbour's
// after it. Two places take turns, so that nothing but the one barrier a round orders the accesses.

constexpr int kMostThreads = 512;

__device__ void expect(bool right, unsigned* wrong) {
  if (!right) atomicExch(wrong, 1u);
}

template <bool kCheck>
__global__ void __launch_bounds__(kMostThreads) block_barrier(int rounds, unsigned* wrong) {
  SHARED(places, int[2][kMostThreads]);
  for (int i = 0; i < rounds; ++i) {
    if (kCheck) places[i % 2][threadIdx.x] = i;
    __syncthreads();
    if (kCheck) expect(places[i % 2][(threadIdx.x + 1) % blockDim.x] == i, wrong);
  }
}

template <bool kCheck>
__global__ void __launch_bounds__(kMostThreads)
    cluster_barrier([[maybe_unused]] int rounds, [[maybe_unused]] unsigned* wrong) {
#if HAS_CLUSTERS
  SHARED(places, int[2][kMostThreads]);
  const auto cluster = cg::this_cluster();
  const unsigned next = (cluster.block_rank() + 1) % cluster.num_blocks();
  for (int i = 0; i < rounds; ++i) {
    if (kCheck) places[i % 2][threadIdx.x] = i;
    cluster.sync();
    if (kCheck) expect(cluster.map_shared_rank(&places[i % 2][0], next)[threadIdx.x] == i, wrong);
  }
  cluster.sync();  // nobody exits while others still read its shared memory
#endif
}

// A step's exchange in the cluster engine: 16 bytes a thread to every other block, and the barrier behind them.
template <bool kCheck>
__global__ void __launch_bounds__(kMostThreads)
    cluster_exchange([[maybe_unused]] int rounds, [[maybe_unused]] unsigned* wrong) {
#if HAS_CLUSTERS
  DYN_SHARED(uint4, buffers);  // [2][blocks][threads]
  const auto cluster = cg::this_cluster();
  const unsigned rank = cluster.block_rank(), blocks = cluster.num_blocks();
  cluster.sync();  // nobody writes into a block that has not started
  for (int i = 0; i < rounds; ++i) {
    uint4* const buffer = buffers + i % 2 * blocks * blockDim.x;
    const unsigned value = i;
    for (unsigned k = 1; k < blocks; ++k) {
      cluster.map_shared_rank(buffer, (rank + k) % blocks)[rank * blockDim.x + threadIdx.x] =
          uint4{value, value, value, value};
    }
    cluster.sync();
    if (kCheck) expect(buffer[(rank + 1) % blocks * blockDim.x + threadIdx.x].w == value, wrong);
  }
#endif
}

// As ClusterExchange has it: asynchronous stores of `vectors` times 16 bytes a thread to every block, and their bytes
// on an mbarrier. The more vectors, the more of it is throughput.
template <bool kCheck>
__global__ void __launch_bounds__(kMostThreads)
    cluster_async_exchange([[maybe_unused]] int rounds, [[maybe_unused]] unsigned vectors,
                           [[maybe_unused]] unsigned* wrong) {
#if HAS_CLUSTERS
  DYN_SHARED(Bits128, buffers);  // [2][blocks][vectors][threads]
  SHARED(full, uint64_t[2]);
  const auto cluster = cg::this_cluster();
  const unsigned rank = cluster.block_rank(), blocks = cluster.num_blocks(), of_block = vectors * blockDim.x;
  if (threadIdx.x < 2) mbarrier_init(&full[threadIdx.x], 1);
  cluster.sync();  // all mbarriers are there before anything comes
  for (int i = 0; i < rounds; ++i) {
    Bits128* const buffer = buffers + i % 2 * blocks * of_block;
    const uint64_t value = i;
    if (threadIdx.x == 0) mbarrier_arrive_expect_tx(&full[i % 2], blocks * of_block * sizeof(Bits128));
    for (unsigned k = 0; k < blocks; ++k) {
      const unsigned to = (rank + k) % blocks;
      for (unsigned v = threadIdx.x; v < of_block; v += blockDim.x) {
        st_async(map_to_rank(buffer + rank * of_block + v, to), {value, value}, map_to_rank(&full[i % 2], to));
      }
    }
    mbarrier_wait_cluster(&full[i % 2], i / 2 % 2);
    if (kCheck) expect(buffer[(rank + 1) % blocks * of_block + threadIdx.x].high == value, wrong);
    __syncthreads();  // the block has done with what came
  }
#endif
}

// One thread follows a chain through another block's shared memory, 16 bytes at a time: each load waits for the last.
__global__ void cluster_load([[maybe_unused]] int rounds, [[maybe_unused]] unsigned* wrong) {
#if HAS_CLUSTERS
  SHARED(chain, uint4[32]);
  const auto cluster = cg::this_cluster();
  chain[threadIdx.x] = uint4{(threadIdx.x + 1) % 32, 0, 0, 0};
  cluster.sync();
  if (threadIdx.x == 0) {
    const uint4* const there = cluster.map_shared_rank(&chain[0], cluster.num_blocks() - 1 - cluster.block_rank());
    unsigned at = 0;
    for (int i = 0; i < rounds; ++i) at = there[at].x;
    expect(at == unsigned(rounds) % 32, wrong);
  }
  cluster.sync();  // nobody exits while others still read its shared memory
#endif
}

// The same through the second cache.
__global__ void l2_load(int rounds, const uint4* chain, unsigned* wrong) {
  unsigned at = 0;
  for (int i = 0; i < rounds; ++i) at = __ldcg(chain + at).x;
  expect(at == unsigned(rounds) % 32, wrong);
}

// Barriers of all blocks. `places`: [2][blocks].
template <bool kCheck, class Barrier>
__device__ void grid_rounds(int rounds, unsigned* places, unsigned* wrong, const Barrier& barrier) {
  for (int i = 0; i < rounds; ++i) {
    unsigned* const of_round = places + i % 2 * gridDim.x;
    if (kCheck && threadIdx.x == 0) of_round[blockIdx.x] = i;
    barrier(i);
    if (kCheck) expect(__ldcg(of_round + (blockIdx.x + 1) % gridDim.x) == unsigned(i), wrong);
  }
}

// As GridExchange of csrc/cuda/recurrence_exchange.cuh has it: every poll acquires, or one load behind the last poll.
template <bool kCheck, bool kAcquirePolls>
__global__ void __launch_bounds__(kMostThreads)
    grid_flag_barrier(int rounds, unsigned* flag, unsigned* places, unsigned* wrong) {
  grid_rounds<kCheck>(rounds, places, wrong, [&](int i) {
    __syncthreads();  // all of the block is here before its first thread says so
    if (threadIdx.x == 0) {
      red_release_add(flag, 1);
      const unsigned arrivals = unsigned(i + 1) * gridDim.x;
      while ((kAcquirePolls ? ld_acquire(flag) : ld_relaxed(flag)) < arrivals) spin_pause();
      if (!kAcquirePolls) ld_acquire(flag);
    }
    __syncthreads();
  });
}

// The same behind eight stores of each thread that nobody reads: the release waits until they are seen.
__global__ void __launch_bounds__(kMostThreads)
    grid_flag_barrier_behind_stores(int rounds, unsigned* flag, unsigned* stores) {
  constexpr unsigned kStores = 8;
  for (int i = 0; i < rounds; ++i) {
    for (unsigned k = 0; k < kStores; ++k) stores[((blockIdx.x * kStores) + k) * blockDim.x + threadIdx.x] = i;
    __syncthreads();
    if (threadIdx.x == 0) {
      red_release_add(flag, 1);
      while (ld_acquire(flag) < unsigned(i + 1) * gridDim.x) spin_pause();
    }
    __syncthreads();
  }
}

// As GridExchange has it: 16 bytes of every block to all, which say themselves that they are there. `units`: two times
// as many as blocks, zeros.
template <bool kCheck>
__global__ void __launch_bounds__(kMostThreads) grid_epochs(int rounds, Bits128* units, unsigned* wrong) {
  for (int i = 0; i < rounds; ++i) {
    Bits128* const of_round = units + i % 2 * gridDim.x;
    const uint64_t epoch = i + 1;
    if (threadIdx.x == 0) st_relaxed128(of_round + blockIdx.x, {epoch, epoch});
    for (unsigned k = threadIdx.x; k < gridDim.x; k += blockDim.x) {
      Bits128 unit = ld_relaxed128(of_round + k);
      for (; unit.low != epoch; unit = ld_relaxed128(of_round + k)) spin_pause();
      if (kCheck) expect(unit.high == epoch, wrong);
    }
    __syncthreads();  // all of the block have all units
  }
}

template <bool kCheck>
__global__ void __launch_bounds__(kMostThreads) grid_sync(int rounds, unsigned* places, unsigned* wrong) {
  grid_rounds<kCheck>(rounds, places, wrong, [](int) { cg::this_grid().sync(); });
}

// What a neighbouring thread has copied of a tile is what lies in memory.
__device__ void expect_neighbours(const uint4* tile, int pieces, unsigned* wrong) {
  const int neighbours = (threadIdx.x + 1) % blockDim.x % pieces;
  expect(tile[neighbours].x == unsigned(neighbours + 1) % 32, wrong);
}

// A tile from the second cache to shared memory, by all threads of each block, as GridExchange has it: a thread waits
// for all of its copies together, so that a large tile is throughput. With blocks `apart` each begins at a place of its
// own.
template <bool kApart>
__global__ void __launch_bounds__(kMostThreads) l2_tile(int rounds, const uint4* tile, int pieces, unsigned* wrong) {
  DYN_SHARED(uint4, here);
  const int begin = kApart ? blockIdx.x * pieces / gridDim.x : 0;
  for (int i = 0; i < rounds; ++i) {
    for (int k = threadIdx.x; k < pieces; k += blockDim.x) {
      const int at = begin + k < pieces ? begin + k : begin + k - pieces;
      cp_async16(here + at, tile + at);
    }
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();  // the next round's copies come to the same place
  }
  if (rounds > 0) expect_neighbours(here, pieces, wrong);
}

// The same in bulk, by one thread of a block, 2 KiB at a time. In a cluster each block asks for its share, for all.
__global__ void __launch_bounds__(kMostThreads)
    l2_tile_in_bulk([[maybe_unused]] int rounds, [[maybe_unused]] const uint4* tile, [[maybe_unused]] int pieces,
                    [[maybe_unused]] unsigned* wrong) {
#if HAS_CLUSTERS
  DYN_SHARED(uint4, here);
  SHARED(full, uint64_t);
  const auto cluster = cg::this_cluster();
  const int blocks = cluster.num_blocks(), share = pieces / blocks, first = cluster.block_rank() * share;
  constexpr int kPieces = 128;
  if (threadIdx.x == 0) mbarrier_init(&full, 1);
  fence_proxy_async();
  cluster.sync();  // all mbarriers are there before anything comes
  for (int i = 0; i < rounds; ++i) {
    if (threadIdx.x == 0) {
      mbarrier_arrive_expect_tx(&full, pieces * sizeof(uint4));
      for (int k = first; k < first + share; k += kPieces) {
        const unsigned bytes = min(kPieces, first + share - k) * sizeof(uint4);
        if (blocks == 1) {
          bulk_copy(here + k, tile + k, bytes, &full);
        } else {
          bulk_copy_multicast(here + k, tile + k, bytes, &full, static_cast<uint16_t>((1u << blocks) - 1));
        }
      }
    }
    mbarrier_wait_cluster(&full, i % 2);
    // The next round's copies come to the same place.
    if (blocks == 1) {
      __syncthreads();
    } else {
      cluster.sync();
    }
  }
  if (rounds > 0) expect_neighbours(here, pieces, wrong);
#endif
}

// A chain of products of ones, each added to the one before.
template <bool kTf32>
__global__ void mma_chain(int rounds, unsigned* wrong) {
  constexpr int kDepth = kTf32 ? 8 : 16;
  const uint32_t one = kTf32 ? __float_as_uint(1.f) : 0x3f803f80u;  // two of bfloat16
  const uint32_t a[4] = {one, one, one, one}, b[2] = {one, one};
  float d[4] = {};
  for (int i = 0; i < rounds; ++i) {
    if (kTf32) {
      mma_m16n8k8_tf32(d, a, b);
    } else {
      mma_m16n8k16_bf16(d, a, b);
    }
  }
  expect(d[0] == float(kDepth * rounds) && d[3] == d[0], wrong);
}

// ---------------------------------------------------------------- the machine

#ifdef RNNDROP_EMULATE_CUDA

// Nothing is timed: the checks are what is run.
struct Stopwatch {
  void start() {}
  double stop() { return 0; }
};
void check(cudaError_t) {}
void* allocate(size_t bytes) { return std::calloc(bytes, 1); }
void copy_in(void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); }
unsigned read_back(const unsigned* from) { return *from; }
bool has_clusters() { return true; }

#else

void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::printf("FAIL %s\n", cudaGetErrorString(error));
  std::exit(1);
}
struct Stopwatch {
  cudaEvent_t from, to;
  Stopwatch() {
    check(cudaEventCreate(&from));
    check(cudaEventCreate(&to));
  }
  void start() { check(cudaEventRecord(from)); }
  double stop() {
    float ms = 0;
    check(cudaEventRecord(to));
    check(cudaEventSynchronize(to));
    check(cudaEventElapsedTime(&ms, from, to));
    return ms * 1e6;
  }
};
void* allocate(size_t bytes) {
  void* memory = nullptr;
  check(cudaMalloc(&memory, bytes));
  check(cudaMemset(memory, 0, bytes));
  return memory;
}
void copy_in(void* to, const void* from, size_t bytes) { check(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice)); }
unsigned read_back(const unsigned* from) {
  unsigned value = 0;
  check(cudaMemcpy(&value, from, sizeof value, cudaMemcpyDeviceToHost));
  return value;
}
bool has_clusters() {
  int device = 0, major = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  return major >= 9;
}

#endif

// ---------------------------------------------------------------- measuring

struct Bench {
  int rounds, repeats;
  unsigned most_blocks, threads;
  unsigned* wrong;
  bool failed = false;

  // launch(rounds, check)
  void measure(const char* what, unsigned blocks, unsigned of_block, size_t bytes,
               const std::function<cudaError_t(int, bool)>& launch) {
    check(launch(rounds, true));
    if (read_back(wrong) != 0) {
      std::printf("FAIL %s, %u blocks\n", what, blocks);
      check(set_to_zero(wrong, sizeof *wrong, nullptr));
      failed = true;
      return;
    }
    Stopwatch stopwatch;
    const auto time_of = [&](int n) {
      stopwatch.start();
      check(launch(n, false));
      return stopwatch.stop();
    };
    time_of(0);  // loads the kernel
    std::vector<double> ns;
    for (int k = 0; k < repeats; ++k) ns.push_back((time_of(rounds) - time_of(0)) / rounds);
    std::sort(ns.begin(), ns.end());
    std::printf("%s,%u,%u,%zu,%d,%d,%.2f,%.2f,%.2f\n", what, blocks, of_block, bytes, rounds, repeats,
                ns[ns.size() / 2], ns.front(), ns.back());
  }
};

LaunchCfg config(unsigned blocks, unsigned threads) {
  LaunchCfg cfg;
  cfg.grid = dim3(blocks);
  cfg.block = dim3(threads);
  return cfg;
}

void measure_clusters(Bench& bench) {
  if (!has_clusters()) {
    std::printf("# left out: clusters, which need sm_90\n");
    return;
  }
  const unsigned threads = bench.threads;
  for (unsigned blocks = 2; blocks <= std::min(16u, bench.most_blocks); blocks *= 2) {
    LaunchCfg cfg = config(blocks, threads), exchange = cfg, load = config(blocks, 32);
    const size_t handed_over = threads * sizeof(uint4);  // by a block
    exchange.smem = 2 * blocks * handed_over;
    cfg.cluster = exchange.cluster = load.cluster = blocks;
    if (clusters_at_once(exchange, cluster_exchange<false>) == 0) {
      std::printf("# left out: clusters of %u blocks, which do not fit\n", blocks);
      continue;
    }
    bench.measure("cluster barrier", blocks, threads, 0, [=](int n, bool check) {
      return check ? LAUNCH(cfg, cluster_barrier<true>, n, bench.wrong)
                   : LAUNCH(cfg, cluster_barrier<false>, n, bench.wrong);
    });
    bench.measure("cluster exchange", blocks, threads, handed_over, [=](int n, bool check) {
      return check ? LAUNCH(exchange, cluster_exchange<true>, n, bench.wrong)
                   : LAUNCH(exchange, cluster_exchange<false>, n, bench.wrong);
    });
    for (const unsigned vectors : {1u, 2u, 4u}) {
      LaunchCfg async = cfg;
      async.smem = vectors * exchange.smem;
      if (clusters_at_once(async, cluster_async_exchange<false>) == 0) continue;
      bench.measure("cluster exchange by st.async", blocks, threads, vectors * handed_over, [=](int n, bool check) {
        return check ? LAUNCH(async, cluster_async_exchange<true>, n, vectors, bench.wrong)
                     : LAUNCH(async, cluster_async_exchange<false>, n, vectors, bench.wrong);
      });
    }
    bench.measure("distributed shared memory load", blocks, 32, sizeof(uint4),
                  [=](int n, bool) { return LAUNCH(load, cluster_load, n, bench.wrong); });
  }
}

void measure_grids(Bench& bench) {
  constexpr size_t kFlagBytes = 128;  // a line of its own
  unsigned* const flag = static_cast<unsigned*>(allocate(kFlagBytes + 2 * bench.most_blocks * sizeof(unsigned)));
  unsigned* const places = flag + kFlagBytes / sizeof(unsigned);
  auto* const stores = static_cast<unsigned*>(allocate(bench.most_blocks * bench.threads * 8 * sizeof(unsigned)));
  const size_t bytes_of_units = 2 * bench.most_blocks * sizeof(Bits128);
  auto* const units = static_cast<Bits128*>(allocate(bytes_of_units));
  std::vector<unsigned> counts;
  for (unsigned blocks = 2; blocks < bench.most_blocks; blocks *= 2) counts.push_back(blocks);
  counts.push_back(bench.most_blocks);
  for (const unsigned blocks : counts) {
    LaunchCfg cfg = config(blocks, bench.threads);
    cfg.coop = true;
    const auto measure_flag = [&](const char* name, auto checked, auto unchecked) {
      bench.measure(name, blocks, bench.threads, 0, [=](int n, bool check) {
        const cudaError_t error = set_to_zero(flag, sizeof *flag, nullptr);
        return error != cudaSuccess ? error : LAUNCH(cfg, check ? checked : unchecked, n, flag, places, bench.wrong);
      });
    };
    measure_flag("grid barrier by a flag", grid_flag_barrier<true, true>, grid_flag_barrier<false, true>);
    measure_flag("grid barrier by a flag with relaxed polls", grid_flag_barrier<true, false>,
                 grid_flag_barrier<false, false>);
    bench.measure("grid barrier by a flag behind stores", blocks, bench.threads, 0, [=](int n, bool) {
      const cudaError_t error = set_to_zero(flag, sizeof *flag, nullptr);
      return error != cudaSuccess ? error : LAUNCH(cfg, grid_flag_barrier_behind_stores, n, flag, stores);
    });
    bench.measure("grid exchange by epochs", blocks, bench.threads, sizeof(Bits128), [=](int n, bool check) {
      const cudaError_t error = set_to_zero(units, bytes_of_units, nullptr);
      if (error != cudaSuccess) return error;
      return check ? LAUNCH(cfg, grid_epochs<true>, n, units, bench.wrong)
                   : LAUNCH(cfg, grid_epochs<false>, n, units, bench.wrong);
    });
    bench.measure("grid.sync", blocks, bench.threads, 0, [=](int n, bool check) {
      return check ? LAUNCH(cfg, grid_sync<true>, n, places, bench.wrong)
                   : LAUNCH(cfg, grid_sync<false>, n, places, bench.wrong);
    });
  }
}

void measure_memory(Bench& bench) {
  constexpr size_t kMostBytes = 128 << 10;
  std::vector<uint4> chain(kMostBytes / sizeof(uint4));
  for (size_t k = 0; k < chain.size(); ++k) chain[k] = uint4{unsigned(k + 1) % 32, 0, 0, 0};
  uint4* const there = static_cast<uint4*>(allocate(kMostBytes));
  copy_in(there, chain.data(), kMostBytes);
  bench.measure("L2 load", 1, 1, sizeof(uint4), [=](int n, bool) {
    return LAUNCH(config(1, 1), l2_load, n, static_cast<const uint4*>(there), bench.wrong);
  });
  for (size_t bytes = 8 << 10; bytes <= kMostBytes; bytes *= 4) {
    for (const unsigned blocks : {1u, bench.most_blocks}) {
      LaunchCfg cfg = config(blocks, bench.threads);
      cfg.smem = bytes;
      const auto measure_tile = [&](const char* what, auto kernel) {
        bench.measure(what, blocks, bench.threads, bytes, [=](int n, bool) {
          return LAUNCH(cfg, kernel, n, static_cast<const uint4*>(there), int(bytes / sizeof(uint4)), bench.wrong);
        });
      };
      measure_tile("L2 tile by cp.async", l2_tile<false>);
      measure_tile("L2 tile by cp.async with blocks apart", l2_tile<true>);
    }
    for (unsigned cluster = 1; has_clusters() && cluster <= std::min(8u, bench.most_blocks); cluster *= 2) {
      for (const unsigned clusters : {1u, bench.most_blocks / cluster}) {
        LaunchCfg cfg = config(clusters * cluster, bench.threads);
        cfg.smem = bytes;
        cfg.cluster = cluster;
        const std::string what = cluster == 1
                                     ? "L2 tile in bulk"
                                     : "L2 tile in bulk by " + std::to_string(cluster) + " blocks for each other";
        bench.measure(what.c_str(), clusters * cluster, bench.threads, bytes, [=](int n, bool) {
          return LAUNCH(cfg, l2_tile_in_bulk, n, static_cast<const uint4*>(there), int(bytes / sizeof(uint4)),
                        bench.wrong);
        });
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  int numbers[4] = {};
  bool right = argc == 5;
  for (int k = 0; right && k < 4; ++k) right = (numbers[k] = std::atoi(argv[k + 1])) > 0;
  if (!right || numbers[2] < 2 || numbers[3] % 32 || numbers[3] > kMostThreads) {
    std::printf(
        "FAIL expected ROUNDS REPEATS MOST_BLOCKS THREADS: at least 1 1 2 32, threads a multiple of 32, at "
        "most %d\n",
        kMostThreads);
    return 1;
  }
  Bench bench{numbers[0], numbers[1], unsigned(numbers[2]), unsigned(numbers[3]),
              static_cast<unsigned*>(allocate(sizeof(unsigned)))};
  std::printf("what,blocks,threads,bytes,rounds,repeats,median_ns,min_ns,max_ns\n");
  for (unsigned threads = 64; threads <= bench.threads; threads *= 2) {
    const LaunchCfg cfg = config(1, threads);
    bench.measure("__syncthreads", 1, threads, 0, [=](int n, bool check) {
      return check ? LAUNCH(cfg, block_barrier<true>, n, bench.wrong)
                   : LAUNCH(cfg, block_barrier<false>, n, bench.wrong);
    });
  }
  measure_clusters(bench);
  measure_grids(bench);
  measure_memory(bench);
  bench.measure("mma m16n8k16 bf16", 1, 32, 0,
                [&](int n, bool) { return LAUNCH(config(1, 32), mma_chain<false>, n, bench.wrong); });
  bench.measure("mma m16n8k8 tf32", 1, 32, 0,
                [&](int n, bool) { return LAUNCH(config(1, 32), mma_chain<true>, n, bench.wrong); });
  return bench.failed;
}
