// Toy kernels with the features that real ones need: tiles in shared memory, a persistent RNN on a cooperative grid
// or in a cluster, tensor cores with cp.async and ldmatrix. Each mistake that is easily made can be planted in them
// ("mistake n" marks the line), to prove that the emulation and the sanitizers find it.
#include "portable.cuh"
#include "toy_kernels.h"

#ifdef RNNDROP_EMULATE_CUDA
int planted_mistake = kNoMistake;
#else
constexpr int planted_mistake = kNoMistake;  // nvcc only shows that the kernels are CUDA
#endif

namespace toy {
namespace {

__device__ bool planted(Mistake mistake) { return planted_mistake == mistake; }

template <int kTile>
__global__ void __launch_bounds__(kTile* kTile)
    matmul_kernel(const float* A, const float* B, float* C, int M, int N, int K) {
  SHARED(a, float[kTile][kTile + 1]);
  SHARED(b, float[kTile][kTile + 1]);
  const int tx = threadIdx.x, ty = threadIdx.y;
  const int row = blockIdx.y * kTile + ty, col = blockIdx.x * kTile + tx;
  float sum = 0;
  for (int k = 0; k < K; k += kTile) {
    if (!planted(kStaleTile) || k == 0) {  // mistake 7
      a[ty][tx] = row < M && k + tx < K ? A[row * K + k + tx] : 0;
    }
    const bool inside = k + ty < K && col < N;
    if (inside || !planted(kUninitialisedShared)) {  // mistake 5
      const bool read = inside || (planted(kReadPastGlobalArray) && k + ty < K);
      b[ty][tx] = read ? B[(k + ty) * N + col] : 0;  // mistake 4
    }
    if (!planted(kNoBarrierBeforeRead)) __syncthreads();  // mistake 1
    for (int j = 0; j < kTile; j++) {
      const bool last = j == kTile - 1 && tx == kTile - 1;
      const float* b_column = &b[j][tx] + (last && planted(kReadPastSharedArray) ? 2 : 0);
      sum += a[ty][j] * *b_column;  // mistake 3
    }
    if (planted(kExitBeforeBarrier) && col >= N) return;  // mistake 6
    if (planted(kDivergentBarrier) && tx < 8) {
      __syncthreads();                           // mistake 8
    } else if (!planted(kNoBarrierAfterRead)) {  // mistake 2
      __syncthreads();
    }
  }
  if (row < M && col < N) C[row * N + col] = planted(kUninitialisedShared) ? sum + 0 * b[0][kTile - 1] : sum;
}

// Sum over the warp of w[j] h[j], in every lane.
__device__ float warp_dot(const float* w, const float* h, int H) {
  float sum = 0;
  for (int j = threadIdx.x % 32; j < H; j += 32) sum += w[j] * h[j];
  for (int offset = 16; offset; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  return sum;
}

// Each block keeps its rows of W in shared memory for all steps; a warp computes one row at a time.
__global__ void __launch_bounds__(128)
    rnn_grid_kernel(const float* W, const float* x, float* hs, int H, int steps, unsigned* counter) {
  DYN_SHARED(float, smem);
  const int rows = H / gridDim.x, first_row = blockIdx.x * rows;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float *w = smem, *h = smem + rows * H;
  for (int i = threadIdx.x; i < rows * H; i += blockDim.x) w[i] = W[first_row * H + i];
  for (int t = 0; t < steps; t++) {
    for (int i = threadIdx.x; i < H; i += blockDim.x) h[i] = hs[t * H + i];
    __syncthreads();  // h and w are complete
    for (int r = warp; r < rows; r += blockDim.x / 32) {
      const float sum = warp_dot(w + r * H, h, H);
      if (lane == 0) hs[(t + 1) * H + first_row + r] = tanhf(sum + x[t * H + first_row + r]);
    }
    if (counter) {
      __syncthreads();  // the whole block has written before its first thread says so
      if (threadIdx.x == 0) {
        if (planted(kRelaxedBarrier)) {  // mistake 12
          atomicAdd(counter, 1u);
        } else {
          red_release_add(counter, 1);
        }
        while (ld_acquire(counter) < gridDim.x * (t + 1)) spin_pause();
      }
      __syncthreads();                     // nobody reads before that thread has seen all blocks
    } else if (planted(kNoGridBarrier)) {  // mistake 9
      __syncthreads();
    } else {
      cg::this_grid().sync();
    }
  }
}

// Every block keeps the whole h, twice: of this step and of the next, which all blocks write.
__global__ void __launch_bounds__(128)
    rnn_cluster_kernel(const float* W, const float* x, float* out, int H, int steps) {
#if HAS_CLUSTERS
  DYN_SHARED(float, smem);
  auto cluster = cg::this_cluster();
  const int blocks = cluster.num_blocks(), rows = H / blocks, first_row = cluster.block_rank() * rows;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int i = threadIdx.x; i < H; i += blockDim.x) smem[i] = 0;
  cluster.sync();
  for (int t = 0; t < steps; t++) {
    float *h = smem + t % 2 * H, *h_next = smem + (t + 1) % 2 * H;
    for (int r = warp; r < rows; r += blockDim.x / 32) {
      const int row = first_row + r;
      const float value = tanhf(warp_dot(W + row * H, h, H) + x[t * H + row]);
      if (lane < blocks) cluster.map_shared_rank(h_next, lane)[row] = value;
      if (lane == 0) out[t * H + row] = value;
    }
    // After the last step too: a block must not exit while others still write to it.
    if (!planted(kExitBeforeClusterBarrier) || t < steps - 1) cluster.sync();  // mistake 10
  }
#endif
}

// One warp for each 16x8 tile of C.
__global__ void mma_tf32_kernel(const float* A, const float* B, float* C, int N, int K) {
  const int g = threadIdx.x / 4, t = threadIdx.x % 4, col = blockIdx.x * 8;
  float d[4] = {0, 0, 0, 0};
  for (int k = 0; k < K; k += 8) {
    uint32_t a[4], b[2];
    for (int i = 0; i < 4; i++) a[i] = to_tf32(A[(g + 8 * (i % 2)) * K + k + t + 4 * (i / 2)]);
    for (int i = 0; i < 2; i++) b[i] = to_tf32(B[(col + g) * K + k + t + 4 * i]);
    mma_m16n8k8_tf32(d, a, b);
  }
  for (int i = 0; i < 4; i++) C[(g + 8 * (i / 2)) * N + col + 2 * t + i % 2] = d[i];
}

// A comes through two buffers filled by cp.async, B straight from memory.
__global__ void mma_bf16_kernel(const __nv_bfloat16* A, const __nv_bfloat16* B, float* C, int N, int K) {
  SHARED(tiles, __nv_bfloat16[2][16][24]);  // rows of 16, padded to 48 bytes against bank conflicts
  const int lane = threadIdx.x, g = lane / 4, t = lane % 4, col = blockIdx.x * 8;
  const int copy_row = lane / 2, copy_col = lane % 2 * 8;
  float d[4] = {0, 0, 0, 0};
  cp_async16(&tiles[0][copy_row][copy_col], A + copy_row * K + copy_col);
  cp_async_commit();
  for (int k = 0, buffer = 0; k < K; k += 16, buffer ^= 1) {
    if (k + 16 < K) cp_async16(&tiles[buffer ^ 1][copy_row][copy_col], A + copy_row * K + k + 16 + copy_col);
    cp_async_commit();
    if (planted(kAsyncCopyNotWaitedFor)) {  // mistake 11
      cp_async_wait<2>();
    } else {
      cp_async_wait<1>();
    }
    __syncwarp();  // the other lanes' copies have arrived as well
    uint32_t a[4], b[2];
    ldmatrix_x4(a, &tiles[buffer][lane % 16][lane / 16 * 8]);
    for (int i = 0; i < 2; i++) b[i] = *reinterpret_cast<const uint32_t*>(&B[(col + g) * K + k + 2 * t + 8 * i]);
    mma_m16n8k16_bf16(d, a, b);
    __syncwarp();  // the buffer is filled anew in the next round
  }
  cp_async_wait<0>();
  for (int i = 0; i < 4; i++) C[(g + 8 * (i / 2)) * N + col + 2 * t + i % 2] = d[i];
}

}  // namespace

int matmul(const float* A, const float* B, float* C, int M, int N, int K, cudaStream_t stream) {
  constexpr int kTile = 16;
  const dim3 grid((N + kTile - 1) / kTile, (M + kTile - 1) / kTile);
  return LAUNCH((LaunchCfg{grid, dim3(kTile, kTile), 0, stream}), matmul_kernel<kTile>, A, B, C, M, N, K);
}

int rnn_grid(const float* W, const float* x, float* hs, int H, int steps, int blocks, unsigned* counter,
             cudaStream_t stream) {
  const size_t smem = sizeof(float) * (H / blocks * H + H);
  return LAUNCH((LaunchCfg{dim3(blocks), dim3(128), smem, stream, true}), rnn_grid_kernel, W, x, hs, H, steps, counter);
}

int rnn_cluster(const float* W, const float* x, float* out, int H, int steps, int blocks, cudaStream_t stream) {
  const LaunchCfg cfg{dim3(blocks), dim3(128), sizeof(float) * 2 * H, stream, false, static_cast<unsigned>(blocks)};
  return LAUNCH(cfg, rnn_cluster_kernel, W, x, out, H, steps);
}

int mma_tf32(const float* A, const float* B, float* C, int N, int K, cudaStream_t stream) {
  return LAUNCH((LaunchCfg{dim3(N / 8), dim3(32), 0, stream}), mma_tf32_kernel, A, B, C, N, K);
}

int mma_bf16(const void* A, const void* B, float* C, int N, int K, cudaStream_t stream) {
  return LAUNCH((LaunchCfg{dim3(N / 8), dim3(32), 0, stream}), mma_bf16_kernel, static_cast<const __nv_bfloat16*>(A),
                static_cast<const __nv_bfloat16*>(B), C, N, K);
}

}  // namespace toy
