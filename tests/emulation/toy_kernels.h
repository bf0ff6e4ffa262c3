// Launchers of the toy kernels, and the mistakes that can be planted in them. They return a cudaError_t as int.
#pragma once

#include <cuda_runtime.h>

// Numbers that test_planted_mistakes.py and the marks in toy_kernels.cu use.
enum Mistake {
  kNoMistake = 0,
  kNoBarrierBeforeRead = 1,
  kNoBarrierAfterRead = 2,
  kReadPastSharedArray = 3,
  kReadPastGlobalArray = 4,
  kUninitialisedShared = 5,
  kExitBeforeBarrier = 6,
  kStaleTile = 7,
  kDivergentBarrier = 8,
  kNoGridBarrier = 9,
  kExitBeforeClusterBarrier = 10,
  kAsyncCopyNotWaitedFor = 11,
  kRelaxedBarrier = 12,
};

#ifdef RNNDROP_EMULATE_CUDA
extern int planted_mistake;  // kNoMistake until somebody plants one
#endif

namespace toy {

// C[M,N] = A[M,K] B[K,N]
int matmul(const float* A, const float* B, float* C, int M, int N, int K, cudaStream_t stream);

// h_t = tanh(x_t + W h_{t-1}) for x[steps,H], W[H,H]; hs[steps+1,H] holds h_0 and receives the rest. `blocks` divides
// H. With `counter`, a zero on the device, the blocks meet at a barrier of their own instead of grid.sync.
int rnn_grid(const float* W, const float* x, float* hs, int H, int steps, int blocks, unsigned* counter,
             cudaStream_t stream);

// The same from h_0 = 0 in one cluster, h in distributed shared memory; out[steps,H].
int rnn_cluster(const float* W, const float* x, float* out, int H, int steps, int blocks, cudaStream_t stream);

// C[16,N] = A[16,K] B[N,K]^T on tensor cores; N a multiple of 8, K of 8 (tf32) or 16 (bf16).
int mma_tf32(const float* A, const float* B, float* C, int N, int K, cudaStream_t stream);
int mma_bf16(const void* A, const void* B, float* C, int N, int K, cudaStream_t stream);

}  // namespace toy
