// Launchers of the toy exchanges, and the mistakes that can be planted in them. They return a cudaError_t as int.
#pragma once

#include <cuda_runtime.h>

// Numbers that test_async_exchange.py and the marks in async_toys.cu use.
enum Mistake {
  kNoMistake = 0,
  kNoExpectTx = 1,
  kBufferReusedTooEarly = 2,
  kWrongParity = 3,
  kWaitAtBlockScope = 4,
  kEpochNotLookedAt = 5,
  kSentinelInsteadOfEpoch = 6,
  kNoRelease = 7,
  kNoAcquire = 8,
  kNoProxyFence = 9,
  kExitBeforeArrival = 10,
  kTornStore = 11,
  kNoGlobalProxyFence = 12,
};

#ifdef RNNDROP_EMULATE_CUDA
extern int planted_mistake;  // kNoMistake until somebody plants one
#endif

namespace toy {

// h_t = tanh(x_t + W h_{t-1}) from h_0 = 0, for x[steps,H], W[H,H], out[steps,H]; all of h goes to every block in every
// step. Without a fence and without a barrier of more than a block:
//   cluster   st.async into the others' shared memory, an mbarrier for each of two buffers; H = 4 blocks
//   grid      through global memory, units of three values and the step that they are of; H = 3 blocks;
//             `units` has 3 * 16 bytes a block, zeros
int all_gather_cluster(const float* W, const float* x, float* out, int steps, int blocks, cudaStream_t stream);
int all_gather_grid(const float* W, const float* x, float* out, int steps, int blocks, void* units,
                    cudaStream_t stream);

// out[n] = data before + data after: block 1 reads data[n], block 0 then adds 1 to it, block 1 reads it again. They
// tell each other by two flags, which are zero before.
int pass_on(float* data, float* out, int n, unsigned* flags, cudaStream_t stream);

// out[blocks][n] = data[n] + 1, in every block of each cluster of two: block 0 adds 1, and tells the others by a flag,
// zero before; then the first block of each cluster copies the sums to both, by multicast. n a multiple of 4.
int bulk_after_flag(float* data, float* out, int n, int blocks, unsigned* flag, cudaStream_t stream);

// out[blocks][n]: the first block's data[n], by multicast, plus the n values that the block before in the ring has
// from data[blocks][n], by bulk copies from its shared memory. n a multiple of 4.
int bulk_ring(const float* data, float* out, int n, int blocks, cudaStream_t stream);

}  // namespace toy
