// portable.cuh - the only things a kernel file may use that CUDA C++ and the CPU emulation spell differently.
#pragma once
#include <cstdint>
#ifdef RNNDROP_EMULATE_CUDA
#include "cuda_emulation.h"
// SHARED(tile, float[16][17]);   DYN_SHARED(float, smem);
#define SHARED(name, ...) static char name##_key; auto& name = *(std::add_pointer_t<__VA_ARGS__>)::emu::smem(&name##_key, sizeof(__VA_ARGS__))
#define DYN_SHARED(T, name) T* name = (T*)::emu::smem(nullptr, 0)
#else
#include <cooperative_groups.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
template <class T> using shared_type = T;
#define SHARED(name, ...) __shared__ shared_type<__VA_ARGS__> name
#define DYN_SHARED(T, name) extern __shared__ __align__(1024) unsigned char dyn_shared_bytes[]; T* name = reinterpret_cast<T*>(dyn_shared_bytes)
#endif
namespace cg = cooperative_groups;

// ---- launch: plain, cooperative and cluster launches through one call
struct LaunchCfg { dim3 grid, block; size_t smem = 0; cudaStream_t stream = nullptr; bool coop = false; unsigned cluster = 1; };
template <class... P, class... A> cudaError_t launch_kernel(const LaunchCfg& c, const char* name, void (*k)(P...), A... a) {
#ifdef RNNDROP_EMULATE_CUDA
  emu::run({c.grid, c.block, c.smem, c.coop, c.cluster, name}, [=] { k(P(a)...); });
  return cudaSuccess;
#else
  if (c.smem > 48 * 1024)
    if (cudaError_t e = cudaFuncSetAttribute(k, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)c.smem)) return e;
  cudaLaunchAttribute at[2]; unsigned n = 0;
  if (c.coop) { at[n].id = cudaLaunchAttributeCooperative; at[n++].val.cooperative = 1; }
  if (c.cluster > 1) { at[n].id = cudaLaunchAttributeClusterDimension; at[n].val.clusterDim.x = c.cluster; at[n].val.clusterDim.y = at[n].val.clusterDim.z = 1; n++; }
  cudaLaunchConfig_t cfg{}; cfg.gridDim = c.grid; cfg.blockDim = c.block; cfg.dynamicSmemBytes = c.smem; cfg.stream = c.stream; cfg.attrs = at; cfg.numAttrs = n;
  return cudaLaunchKernelEx(&cfg, k, P(a)...);
#endif
}
#define LAUNCH(cfg, kernel, ...) launch_kernel(cfg, #kernel, kernel, __VA_ARGS__)

#ifdef RNNDROP_EMULATE_CUDA
#define EMU_CALLER , EMU_AT
#else
#define EMU_CALLER
#endif

// ---- device-scope atomics with an order (never __threadfence + relaxed: the race checker models only these)
__device__ inline unsigned ld_acquire(const unsigned* p) {
#ifdef RNNDROP_EMULATE_CUDA
  emu::maybe_yield(); return __atomic_load_n(p, __ATOMIC_ACQUIRE);
#else
  unsigned v; asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory"); return v;
#endif
}
__device__ inline void red_release_add(unsigned* p, unsigned v) {
#ifdef RNNDROP_EMULATE_CUDA
  emu::maybe_yield(); __atomic_fetch_add(p, v, __ATOMIC_ACQ_REL);
#else
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
#endif
}
#ifdef RNNDROP_EMULATE_CUDA
using emu::spin_pause;  // every spin loop must call it
#else
__device__ inline void spin_pause() {}
#endif

// ---- cp.async (16 bytes; pred = false writes zeros)
__device__ inline void cp_async16(void* s, const void* g, bool pred = true) {
#ifdef RNNDROP_EMULATE_CUDA
  emu::cp_async(s, g, 16, pred ? 16 : 0);
#else
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((unsigned)__cvta_generic_to_shared(s)), "l"(g), "r"(pred ? 16 : 0) : "memory");
#endif
}
__device__ inline void cp_async_commit() {
#ifdef RNNDROP_EMULATE_CUDA
  emu::cp_commit();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int N> __device__ inline void cp_async_wait() {
#ifdef RNNDROP_EMULATE_CUDA
  emu::cp_wait(N);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

// ---- tensor cores. Fragment layouts: PTX ISA, "Matrix Fragments for mma.m16n8k8 / .m16n8k16"
//   g = lane / 4, t = lane % 4
//   C/D f32 : c[i]   row g + 8*(i/2),      col 2t + i%2
//   tf32 k8 : a[i]   row g + 8*(i%2),      col t + 4*(i/2)        b[i] row(k) t + 4*i,       col(n) g
//   bf16 k16: a[i]   row g + 8*(i%2), cols 2t + 8*(i/2) + {0,1}   b[i] rows(k) 2t + 8*i + {0,1}, col(n) g   (low half first)
__device__ inline void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2] EMU_CALLER) {
#ifdef RNNDROP_EMULATE_CUDA
  struct Dep { uint32_t a[4], b[2]; } me{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  auto* w = (const Dep*)emu::exchange(~0u, &me, sizeof me, "mma_m16n8k8_tf32", f, l);
  auto tf = [](uint32_t x) { x &= 0xffffe000u; float v; memcpy(&v, &x, 4); return (double)v; };  // the tensor core drops the low 13 bits
  int g = emu_lane() / 4, t = emu_lane() % 4;
  for (int i = 0; i < 4; i++) {
    int row = g + 8 * (i / 2), col = 2 * t + i % 2; double s = d[i];
    for (int k = 0; k < 8; k++) s += tf(w[(row % 8) * 4 + k % 4].a[row / 8 + 2 * (k / 4)]) * tf(w[col * 4 + k % 4].b[k / 4]);
    d[i] = (float)s;
  }
#else
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}
__device__ inline void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2] EMU_CALLER) {
#ifdef RNNDROP_EMULATE_CUDA
  struct Dep { uint32_t a[4], b[2]; } me{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  auto* w = (const Dep*)emu::exchange(~0u, &me, sizeof me, "mma_m16n8k16_bf16", f, l);
  auto bf = [](uint32_t x, int hi) { x = hi ? x & 0xffff0000u : x << 16; float v; memcpy(&v, &x, 4); return (double)v; };
  int g = emu_lane() / 4, t = emu_lane() % 4;
  for (int i = 0; i < 4; i++) {
    int row = g + 8 * (i / 2), col = 2 * t + i % 2; double s = d[i];
    for (int k = 0; k < 16; k++) s += bf(w[(row % 8) * 4 + k % 8 / 2].a[row / 8 + 2 * (k / 8)], k % 2) * bf(w[col * 4 + k % 8 / 2].b[k / 8], k % 2);
    d[i] = (float)s;
  }
#else
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}
// four 8x8 b16 matrices: lane i gives the 16-byte row i%8 of matrix i/8; register j gets matrix j, row lane/4, columns 2*(lane%4)+{0,1}
__device__ inline void ldmatrix_x4(uint32_t (&r)[4], const void* row EMU_CALLER) {
#ifdef RNNDROP_EMULATE_CUDA
  if ((uintptr_t)row % 16) emu::die("ldmatrix at %s:%d: row address %p is not 16-byte aligned", f, l, row);
  auto* w = (const char* const*)emu::exchange(~0u, &row, sizeof row, "ldmatrix_x4", f, l);
  for (int j = 0; j < 4; j++) memcpy(&r[j], w[j * 8 + emu_lane() / 4] + emu_lane() % 4 * 4, 4);
  __syncwarp(~0u, f, l);  // (tsan: the rows may be overwritten after this)
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"((unsigned)__cvta_generic_to_shared(row)) : "memory");
#endif
}
__device__ inline uint32_t to_tf32(float x) {  // round to nearest, ties away
#ifdef RNNDROP_EMULATE_CUDA
  uint32_t u; memcpy(&u, &x, 4); return (u & 0x7f800000u) == 0x7f800000u ? u : (u + 0x1000u) & 0xffffe000u;
#else
  uint32_t u; asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(u) : "f"(x)); return u;
#endif
}
