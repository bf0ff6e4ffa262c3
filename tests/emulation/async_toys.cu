// Toy exchanges without fences: the seed of one for the recurrence, in a cluster and in a grid; the plain way to pass
// something on, with release and acquire; bulk copies. Each mistake that is easily made can be planted in them
// ("mistake n" marks the line), to prove that the emulation finds it.
#include <cstring>

#include "async_exchange.cuh"
#include "async_toys.h"

#ifdef RNNDROP_EMULATE_CUDA
int planted_mistake = kNoMistake;
#else
constexpr int planted_mistake = kNoMistake;  // nvcc only shows that the kernels are CUDA
#endif

namespace toy {
namespace {

constexpr int kThreads = 64;

__device__ bool planted(Mistake mistake) { return planted_mistake == mistake; }

// mine[r] = tanh(x[first_row + r] + W[first_row + r] h), a warp for each row
__device__ void step(const float* W, const float* x, const float* h, float* out, float* mine, int H, int first_row,
                     int rows) {
  for (int r = threadIdx.x / 32; r < rows; r += blockDim.x / 32) {
    const int row = first_row + r;
    float sum = 0;
    for (int j = threadIdx.x % 32; j < H; j += 32) sum += W[row * H + j] * h[j];
    for (int offset = 16; offset; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    if (threadIdx.x % 32 == 0) out[row] = mine[r] = tanhf(sum + x[row]);
  }
}

// Two buffers are enough: who sends h_t has all of h_{t-1}, so that everybody has done with h_{t-2}.
__global__ void __launch_bounds__(kThreads)
    all_gather_cluster_kernel(const float* W, const float* x, float* out, int steps) {
#if HAS_CLUSTERS
  constexpr int kRows = 4;
  DYN_SHARED(float, buffers);
  SHARED(mine, float4);
  SHARED(full, uint64_t[2]);
  const auto cluster = cg::this_cluster();
  const int blocks = cluster.num_blocks(), H = kRows * blocks, first_row = cluster.block_rank() * kRows;
  const int n_buffers = planted(kBufferReusedTooEarly) ? 1 : 2;  // mistake 2
  if (threadIdx.x < 2) mbarrier_init(&full[threadIdx.x], 1);
  for (int i = threadIdx.x; i < H; i += blockDim.x) buffers[(n_buffers - 1) * H + i] = 0;
  cluster.sync();  // all mbarriers are there before anything comes
  for (int t = 0; t < steps; ++t) {
    const int before = (t + n_buffers - 1) % n_buffers, now = t % n_buffers;
    const bool sends = t < steps - 1;
    if (t > 0) {
      const unsigned parity = (t - 1) / n_buffers % 2;
      if (planted(kWaitAtBlockScope)) {
        mbarrier_wait(&full[before], parity);  // mistake 4
      } else {
        mbarrier_wait_cluster(&full[before], planted(kWrongParity) ? parity ^ 1 : parity);  // mistake 3
      }
    }
    if (threadIdx.x == 0 && sends) {
      if (planted(kNoExpectTx)) {
        mbarrier_arrive(&full[now]);  // mistake 1
      } else {
        mbarrier_arrive_expect_tx(&full[now], sizeof(float) * H);
      }
    }
    step(W, x + t * H, buffers + before * H, out + t * H, &mine.x, H, first_row, kRows);
    __syncthreads();  // all of mine is there
    if (static_cast<int>(threadIdx.x) < blocks && sends) {
      Bits128 bits;
      memcpy(&bits, &mine, sizeof bits);
      st_async(map_to_rank(buffers + now * H + first_row, threadIdx.x), bits, map_to_rank(&full[now], threadIdx.x));
    }
    if (planted(kExitBeforeArrival) && t == steps - 2) return;  // mistake 10
    __syncthreads();                                            // mine has been read
  }
#endif
}

struct alignas(16) Unit {
  float values[3];
  unsigned epoch;  // t + 1 of h_t, so that zeros are not waited for
};

// Waits for the values of `epoch`. No order is needed: a unit comes whole, and says itself what it is.
__device__ Unit poll(const Unit* from, unsigned epoch) {
  while (true) {
    const Bits128 bits = ld_relaxed128(from);
    Unit unit;
    memcpy(&unit, &bits, sizeof unit);
    const bool is_sentinel = unit.epoch == 0;
    if (planted(kSentinelInsteadOfEpoch) ? !is_sentinel : unit.epoch == epoch) return unit;
    if (planted(kEpochNotLookedAt) && threadIdx.x > 0) return unit;  // mistake 5
    spin_pause();
  }
}

__device__ void send(Unit* to, const Unit& unit) {
  if (planted(kTornStore)) {
    for (int k = 0; k < 3; ++k) to->values[k] = unit.values[k];
    to->epoch = unit.epoch;  // mistake 11
    return;
  }
  Bits128 bits;
  memcpy(&bits, &unit, sizeof bits);
  st_relaxed128(to, bits);
}

// Nothing says that a buffer is free: a block that has all of h_{t-1} knows that all have done with h_{t-2}.
__global__ void __launch_bounds__(kThreads)
    all_gather_grid_kernel(const float* W, const float* x, float* out, int steps, Unit* units) {
  constexpr int kRows = 3;
  DYN_SHARED(float, h);
  SHARED(mine, float[kRows]);
  const int blocks = gridDim.x, H = kRows * blocks, first_row = blockIdx.x * kRows;
  const int n_buffers = planted(kSentinelInsteadOfEpoch) ? 3 : 2;
  for (int i = threadIdx.x; i < H; i += blockDim.x) h[i] = 0;
  for (int t = 0; t < steps; ++t) {
    if (t > 0 && static_cast<int>(threadIdx.x) < blocks) {
      const Unit unit = poll(units + (t - 1) % n_buffers * blocks + threadIdx.x, t);
      for (int k = 0; k < kRows; ++k) h[threadIdx.x * kRows + k] = unit.values[k];
    }
    __syncthreads();  // all of h is there
    step(W, x + t * H, h, out + t * H, mine, H, first_row, kRows);
    __syncthreads();  // all of mine is there, and h has been read
    if (threadIdx.x > 0) continue;
    send(units + t % n_buffers * blocks + blockIdx.x, {{mine[0], mine[1], mine[2]}, static_cast<unsigned>(t + 1)});
    // Empty again for h_{t+1}: but who sees h_t may not see this yet, and take h_{t-2} for it.
    if (planted(kSentinelInsteadOfEpoch))
      send(units + (t + 1) % n_buffers * blocks + blockIdx.x, {{}, 0});  // mistake 6
  }
}

__device__ void wait_for(const unsigned* flag) {
  if (threadIdx.x == 0) {
    while (!ld_acquire(flag)) spin_pause();
  }
  __syncthreads();
}

__global__ void pass_on_kernel(float* data, float* out, unsigned* flags) {
  const int i = threadIdx.x;
  if (blockIdx.x == 0) {
    wait_for(flags);
    data[i] += 1;
    __syncthreads();
    if (i > 0) return;
    if (planted(kNoRelease)) {
      atomicAdd(flags + 1, 1u);  // mistake 7
    } else {
      red_release_add(flags + 1, 1);
    }
    return;
  }
  const float before = data[i];
  __syncthreads();
  if (i == 0) red_release_add(flags, 1);
  if (planted(kNoAcquire)) {
    while (!ld_relaxed(flags + 1)) spin_pause();  // mistake 8
  } else {
    wait_for(flags + 1);
  }
  out[i] = before + data[i];
}

__global__ void __launch_bounds__(kThreads) bulk_ring_kernel(const float* data, float* out, int n) {
#if HAS_CLUSTERS
  DYN_SHARED(float, smem);
  SHARED(full, uint64_t);
  const auto cluster = cg::this_cluster();
  const unsigned rank = cluster.block_rank(), blocks = cluster.num_blocks(), bytes = n * sizeof(float);
  float *own = smem, *of_first = smem + n, *of_other = smem + 2 * n;
  for (int i = threadIdx.x; i < n; i += blockDim.x) own[i] = data[rank * n + i];
  if (!planted(kNoProxyFence)) fence_proxy_async();  // mistake 9
  if (threadIdx.x == 0) {
    mbarrier_init(&full, 1);
    mbarrier_arrive_expect_tx(&full, 2 * bytes);
  }
  cluster.sync();
  if (threadIdx.x == 0) {
    if (rank == 0) bulk_copy_multicast(of_first, data, bytes, &full, static_cast<uint16_t>((1u << blocks) - 1));
    const unsigned next = (rank + 1) % blocks;
    bulk_copy_to_rank(map_to_rank(of_other, next), own, bytes, map_to_rank(&full, next));
  }
  mbarrier_wait_cluster(&full, 0);
  for (int i = threadIdx.x; i < n; i += blockDim.x) out[rank * n + i] = of_first[i] + of_other[i];
  cluster.sync();  // nobody leaves while the next block's copy may still read from it
#endif
}

__global__ void __launch_bounds__(kThreads) bulk_after_flag_kernel(float* data, float* out, int n, unsigned* flag) {
#if HAS_CLUSTERS
  DYN_SHARED(float, sums);
  SHARED(full, uint64_t);
  if (threadIdx.x == 0) mbarrier_init(&full, 1);
  cg::this_cluster().sync();
  if (blockIdx.x == 0) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) data[i] += 1;
    __syncthreads();
    if (threadIdx.x == 0) red_release_add(flag, 1);
  }
  if (threadIdx.x == 0) {
    mbarrier_arrive_expect_tx(&full, n * sizeof(float));
    while (!ld_acquire(flag)) spin_pause();
    if (!planted(kNoGlobalProxyFence)) fence_proxy_async_global();  // mistake 12
    if (blockIdx.x % 2 == 0) bulk_copy_multicast(sums, data, n * sizeof(float), &full, 0b11);
  }
  mbarrier_wait_cluster(&full, 0);
  for (int i = threadIdx.x; i < n; i += blockDim.x) out[blockIdx.x * n + i] = sums[i];
#endif
}

}  // namespace

int all_gather_cluster(const float* W, const float* x, float* out, int steps, int blocks, cudaStream_t stream) {
  const size_t smem = sizeof(float) * 2 * 4 * blocks;
  const LaunchCfg cfg{dim3(blocks), dim3(kThreads), smem, stream, false, static_cast<unsigned>(blocks)};
  return LAUNCH(cfg, all_gather_cluster_kernel, W, x, out, steps);
}

int all_gather_grid(const float* W, const float* x, float* out, int steps, int blocks, void* units,
                    cudaStream_t stream) {
  const LaunchCfg cfg{dim3(blocks), dim3(kThreads), sizeof(float) * 3 * blocks, stream, true};
  return LAUNCH(cfg, all_gather_grid_kernel, W, x, out, steps, static_cast<Unit*>(units));
}

int pass_on(float* data, float* out, int n, unsigned* flags, cudaStream_t stream) {
  return LAUNCH((LaunchCfg{dim3(2), dim3(n), 0, stream, true}), pass_on_kernel, data, out, flags);
}

int bulk_after_flag(float* data, float* out, int n, int blocks, unsigned* flag, cudaStream_t stream) {
  const LaunchCfg cfg{dim3(blocks), dim3(kThreads), sizeof(float) * n, stream, true, 2};
  return LAUNCH(cfg, bulk_after_flag_kernel, data, out, n, flag);
}

int bulk_ring(const float* data, float* out, int n, int blocks, cudaStream_t stream) {
  const size_t smem = sizeof(float) * 3 * n;
  const LaunchCfg cfg{dim3(blocks), dim3(kThreads), smem, stream, false, static_cast<unsigned>(blocks)};
  return LAUNCH(cfg, bulk_ring_kernel, data, out, n);
}

}  // namespace toy
