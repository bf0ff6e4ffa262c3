// What an exchange between blocks without fences is made of: relaxed accesses of 16 bytes at gpu scope, and in a
// cluster mbarriers with asynchronous stores and bulk copies that complete on them. Inline PTX under nvcc, the
// emulation otherwise, as in portable.cuh. The semantics are the PTX ISA's: st.async, cp.async.bulk, mbarrier.*,
// fence.proxy.
//
// What they cost as SASS of sm_90 (nvcc 13.0): a relaxed load or store, st.async and the arrival at a block's own
// mbarrier are one instruction. mbarrier_wait_cluster drops the first cache once (CCTL.IVALL), mbarrier_arrive_cluster
// is a MEMBAR.ALL.GPU: no step should need it, for the bytes that st.async brings say enough.
#pragma once

#include "portable.cuh"

#ifdef RNNDROP_EMULATE_CUDA

using emu::Bits128;
using emu::ld_relaxed;
using emu::ld_relaxed128;
using emu::st_relaxed128;

#if HAS_CLUSTERS
using emu::bulk_copy;
using emu::bulk_copy_multicast;
using emu::bulk_copy_to_rank;
using emu::ClusterAddress;
using emu::fence_proxy_async;
using emu::fence_proxy_async_global;
using emu::map_to_rank;
using emu::mbarrier_arrive;
using emu::mbarrier_arrive_cluster;
using emu::mbarrier_arrive_expect_tx;
using emu::mbarrier_init;
using emu::mbarrier_try_wait;
using emu::mbarrier_try_wait_cluster;
using emu::mbarrier_wait;
using emu::mbarrier_wait_cluster;
using emu::st_async;
#endif

#else

struct alignas(16) Bits128 {
  uint64_t low, high;
};

__device__ inline unsigned ld_relaxed(const unsigned* address) {
  unsigned value;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
  return value;
}

// 16 bytes of global memory at once: no other thread sees a part of them. Past the first cache, and in no order with
// any other access, so that what is loaded must tell by itself whether it is what was waited for. (.v4.b32 would be
// four accesses by the letter, and may come apart.)
__device__ inline Bits128 ld_relaxed128(const void* address) {
  Bits128 value;
  asm volatile(
      "{\n"
      ".reg .b128 value;\n"
      "ld.relaxed.gpu.global.b128 value, [%2];\n"
      "mov.b128 {%0, %1}, value;\n"
      "}"
      : "=l"(value.low), "=l"(value.high)
      : "l"(address)
      : "memory");
  return value;
}
__device__ inline void st_relaxed128(void* address, Bits128 value) {
  asm volatile(
      "{\n"
      ".reg .b128 value;\n"
      "mov.b128 value, {%1, %2};\n"
      "st.relaxed.gpu.global.b128 [%0], value;\n"
      "}" ::"l"(address),
      "l"(value.low), "l"(value.high)
      : "memory");
}

#if HAS_CLUSTERS

// An address in the shared memory of any block of the cluster; bytes may be added.
using ClusterAddress = uint32_t;

__device__ inline uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}
// Where block `rank` of the cluster has what this block has at `shared`.
__device__ inline ClusterAddress map_to_rank(const void* shared, unsigned rank) {
  ClusterAddress mapped;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(mapped) : "r"(shared_address(shared)), "r"(rank));
  return mapped;
}

// One thread initialises; then __syncthreads, or cluster.sync where other blocks use it.
__device__ inline void mbarrier_init(uint64_t* mbarrier, unsigned arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(mbarrier)), "r"(arrivals) : "memory");
}
// Release at cta scope.
__device__ inline void mbarrier_arrive(uint64_t* mbarrier) {
  asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" ::"r"(shared_address(mbarrier)) : "memory");
}
// The phase completes when all arrivals are in and as many bytes as were expected; which may come first.
__device__ inline void mbarrier_arrive_expect_tx(uint64_t* mbarrier, unsigned bytes) {
  asm volatile("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(mbarrier)),
               "r"(bytes)
               : "memory");
}
// Of another block's, release at cluster scope: a fence of the whole GPU.
__device__ inline void mbarrier_arrive_cluster(ClusterAddress mbarrier) {
  asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(mbarrier) : "memory");
}
// Whether the phase of this parity, the current one or the one before, is complete; the first has parity 0. Acquire at
// cta scope: of this block's arrivals and bulk copies.
__device__ inline bool mbarrier_try_wait(uint64_t* mbarrier, unsigned parity) {
  uint32_t complete;
  asm volatile(
      "{\n"
      ".reg .pred complete;\n"
      "mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 complete, [%1], %2;\n"
      "selp.u32 %0, 1, 0, complete;\n"
      "}"
      : "=r"(complete)
      : "r"(shared_address(mbarrier)), "r"(parity)
      : "memory");
  return complete;
}
// The same where another block takes part: acquire at cluster scope, the scope at which st.async releases.
__device__ inline bool mbarrier_try_wait_cluster(uint64_t* mbarrier, unsigned parity) {
  uint32_t complete;
  asm volatile(
      "{\n"
      ".reg .pred complete;\n"
      "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 complete, [%1], %2;\n"
      "selp.u32 %0, 1, 0, complete;\n"
      "}"
      : "=r"(complete)
      : "r"(shared_address(mbarrier)), "r"(parity)
      : "memory");
  return complete;
}

__device__ inline void mbarrier_wait(uint64_t* mbarrier, unsigned parity) {
  while (!mbarrier_try_wait(mbarrier, parity)) {
  }
}
__device__ inline void mbarrier_wait_cluster(uint64_t* mbarrier, unsigned parity) {
  while (!mbarrier_try_wait_cluster(mbarrier, parity)) {
  }
}

// 16 bytes into the shared memory of a block, which its mbarrier counts when they have come. In the generic proxy.
__device__ inline void st_async(ClusterAddress to, Bits128 value, ClusterAddress mbarrier) {
  asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.b64 [%0], {%1, %2}, [%3];" ::"r"(to),
               "l"(value.low), "l"(value.high), "r"(mbarrier)
               : "memory");
}

// Bulk copies act in the async proxy: between what a block has written to shared memory itself and a copy from there,
// or onto it, there must be this fence, by the threads that wrote. The other way round, the end of a copy is one.
__device__ inline void fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// The same for global memory: between what other threads have written there, once it is acquired, and a copy from
// there.
__device__ inline void fence_proxy_async_global() { asm volatile("fence.proxy.async.global;" ::: "memory"); }

// From global memory to this block's shared memory, and its mbarrier; addresses and bytes are multiples of 16.
__device__ inline void bulk_copy(void* to, const void* from, unsigned bytes, uint64_t* mbarrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(to)),
               "l"(from), "r"(bytes), "r"(shared_address(mbarrier))
               : "memory");
}
// The same to all blocks of the mask, each at the same place and on its own mbarrier.
__device__ inline void bulk_copy_multicast(void* to, const void* from, unsigned bytes, uint64_t* mbarrier,
                                           uint16_t ranks) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, [%3], "
      "%4;" ::"r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(mbarrier)), "h"(ranks)
      : "memory");
}
// From this block's shared memory to another's.
__device__ inline void bulk_copy_to_rank(ClusterAddress to, const void* from, unsigned bytes, ClusterAddress mbarrier) {
  asm volatile("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
               "r"(shared_address(from)), "r"(bytes), "r"(mbarrier)
               : "memory");
}

#endif

#endif
