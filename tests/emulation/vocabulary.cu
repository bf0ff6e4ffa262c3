// Every name of CUDA's that cuda_emulation.h provides and the toy kernels do not use, each with an answer known by
// hand; and the order in which schedules run threads. Prints "ok", or the first line that failed.
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "portable.cuh"

namespace {

constexpr unsigned kAll = 0xffffffffu;

__device__ void expect(bool ok, int line, int* first_failure) {
  if (!ok) atomicCAS(first_failure, 0, line);
}
#define EXPECT(condition) expect(condition, __LINE__, first_failure)

__global__ void warp_kernel(int* first_failure) {
  const int lane = threadIdx.x;
  EXPECT(__shfl_sync(kAll, lane, 5) == 5);
  EXPECT(__shfl_sync(kAll, lane, 3, 8) == lane / 8 * 8 + 3);
  EXPECT(__shfl_xor_sync(kAll, lane * 2.0, 3) == (lane ^ 3) * 2.0);
  EXPECT(__shfl_xor_sync(kAll, lane, 8, 8) == (lane < 8 ? lane : lane ^ 8) || lane % 16 < 8);
  EXPECT(__shfl_down_sync(kAll, lane, 4) == (lane + 4 < 32 ? lane + 4 : lane));
  EXPECT(__shfl_down_sync(kAll, lane, 4, 8) == (lane % 8 < 4 ? lane + 4 : lane));
  EXPECT(__shfl_up_sync(kAll, lane, 4) == (lane >= 4 ? lane - 4 : lane));
  EXPECT(__shfl_up_sync(kAll, lane, 4, 8) == (lane % 8 >= 4 ? lane - 4 : lane));
  EXPECT(__ballot_sync(kAll, lane % 4 == 0) == 0x11111111u);
  EXPECT(__any_sync(kAll, lane == 31) && !__any_sync(kAll, lane == 32));
  EXPECT(__all_sync(kAll, lane < 32) && !__all_sync(kAll, lane < 31));
  if (lane < 16) {  // the two halves of a warp, each for itself
    EXPECT(__shfl_xor_sync(0x0000ffffu, lane, 15) == (lane ^ 15));
  } else {
    EXPECT(__ballot_sync(0xffff0000u, lane > 30) == 0x80000000u);
  }
  __syncwarp();
  EXPECT(warpSize == 32);
}

// The lower half meets more often than the upper one before all do. With `racy` it then reads the upper half's cells
// without having met it, which only a race checker sees.
__global__ void half_warp_kernel(int* first_failure, bool racy) {
  SHARED(cells, int[32]);
  const int lane = threadIdx.x;
  cells[lane] = lane;
  if (lane < 16) {
    __syncwarp(0x0000ffffu);
    EXPECT(cells[lane ^ 15] == (lane ^ 15));
    if (racy) EXPECT(cells[31 - lane] != 32);
  }
  __syncwarp();
  EXPECT(cells[31 - lane] == 31 - lane);
}

// 40 threads: the second warp has 8 lanes, and full masks mean those.
__global__ void partial_warp_kernel(int* first_failure) {
  const int in_warp = threadIdx.x < 32 ? 32 : 8;
  int sum = 1;
  for (int offset = 4; offset; offset /= 2) sum += __shfl_xor_sync(kAll, sum, offset);
  EXPECT(sum == 8);
  EXPECT(__popc(__ballot_sync(kAll, 1)) == in_warp);
  cg::this_thread_block().sync();
}

__global__ void memory_kernel(int* first_failure, unsigned* cells, float* total) {
  SHARED(filled, float[4]);
  EXPECT(filled[0] != filled[0]);  // NaN until written; not so on a GPU
  EXPECT(__ldg(cells) == 7 && __ldcg(cells) == 7);
  __stcg(cells + 1 + threadIdx.x, threadIdx.x);
  __threadfence();
  atomicAdd(total, 0.5f);
  atomicMax(cells + 33, threadIdx.x * 3);
  const unsigned before = atomicExch(cells + 34, 1u);
  EXPECT(before <= 1);
}

__global__ void arithmetic_kernel(int* first_failure) {
  EXPECT(std::fabs(__expf(1.f) - 2.7182817f) < 1e-5f);
  EXPECT(std::fabs(__logf(__expf(2.f)) - 2.f) < 1e-5f);
  EXPECT(__fdividef(6.f, 3.f) == 2.f);
  EXPECT(rsqrtf(16.f) == 0.25f);
  EXPECT(__saturatef(2.f) == 1.f && __saturatef(-1.f) == 0.f && __saturatef(0.25f) == 0.25f);
  EXPECT(__saturatef(nanf("")) == 0.f);
  EXPECT(__float_as_uint(1.f) == 0x3f800000u && __uint_as_float(0x40000000u) == 2.f);
  EXPECT(__popc(0xf0f0u) == 8 && __ffs(8) == 4 && __ffs(0) == 0);
  EXPECT(__clz(1) == 31 && __clz(0) == 32 && __clz(-1) == 0);
  EXPECT(max(2, 3) == 3 && min(2.f, 3.f) == 2.f);
  // Ties go away from zero; infinity stays.
  EXPECT(to_tf32(__uint_as_float(0x3f801000u)) == 0x3f802000u);
  EXPECT(to_tf32(__uint_as_float(0x3f800fffu)) == 0x3f800000u);
  EXPECT(to_tf32(INFINITY) == 0x7f800000u);
  EXPECT(__bfloat162float(__float2bfloat16(1.5f)) == 1.5f && __half2float(__float2half(1.5f)) == 1.5f);
}

__global__ void index_kernel(int* visits) {
  const dim3 g = gridDim, b = blockDim;
  const unsigned block = (blockIdx.z * g.y + blockIdx.y) * g.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * b.y + threadIdx.y) * b.x + threadIdx.x;
  atomicAdd(visits + block * (b.x * b.y * b.z) + thread, 1);
}

__global__ void order_kernel(int* order, int* next) { order[atomicAdd(next, 1)] = threadIdx.x; }

// cp.async of 16 bytes, and of none: the rest is zeros.
__global__ void copy_kernel(int* first_failure, const float* from) {
  SHARED(to, float4[2]);
  cp_async16(&to[0], from);
  cp_async16(&to[1], from, false);
  cp_async_commit();
  cp_async_wait<0>();
  EXPECT(to[0].x == 1 && to[0].w == 4);
  EXPECT(to[1].x == 0 && to[1].w == 0);
}

int fail(const char* kernel, int line) {
  std::printf("FAIL vocabulary.cu:%d %s\n", line, kernel);
  return 1;
}

int check_vocabulary() {
  int line = 0;
  std::vector<unsigned> cells(35, 0);
  cells[0] = 7;
  float total = 0;
  alignas(16) const float values[4] = {1, 2, 3, 4};
  LAUNCH((LaunchCfg{dim3(1), dim3(32)}), warp_kernel, &line);
  LAUNCH((LaunchCfg{dim3(1), dim3(32)}), half_warp_kernel, &line, false);
  LAUNCH((LaunchCfg{dim3(1), dim3(40)}), partial_warp_kernel, &line);
  LAUNCH((LaunchCfg{dim3(1), dim3(32)}), memory_kernel, &line, cells.data(), &total);
  LAUNCH((LaunchCfg{dim3(1), dim3(1)}), arithmetic_kernel, &line);
  LAUNCH((LaunchCfg{dim3(1), dim3(1)}), copy_kernel, &line, values);
  if (line) return fail("", line);
  if (total != 16 || cells[33] != 93 || cells[34] != 1) return fail("memory_kernel", __LINE__);
  for (unsigned i = 0; i < 32; i++) {
    if (cells[1 + i] != i) return fail("memory_kernel", __LINE__);
  }
  std::vector<int> visits(2 * 3 * 2 * 4 * 3 * 2, 0);
  LAUNCH((LaunchCfg{dim3(2, 3, 2), dim3(4, 3, 2)}), index_kernel, visits.data());
  for (int count : visits) {
    if (count != 1) return fail("index_kernel", __LINE__);
  }
  std::printf("ok\n");
  return 0;
}

}  // namespace

// program: the checks. program race: a data race. program order: the order in which 64 threads came.
int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "checks";
  if (what == "checks") return check_vocabulary();
  int line = 0;
  if (what == "race") return LAUNCH((LaunchCfg{dim3(1), dim3(32)}), half_warp_kernel, &line, true);
  std::vector<int> order(64, -1);
  int next = 0;
  LAUNCH((LaunchCfg{dim3(1), dim3(64)}), order_kernel, order.data(), &next);
  for (int thread : order) std::printf("%d ", thread);
}
