// cuda_emulation.h - run CUDA kernels on the CPU: every CUDA thread is a fiber on one OS thread.
//   g++ -x c++ -DRNNDROP_EMULATE_CUDA -I/usr/local/cuda/include kernel.cu     (kernel.cu includes portable.cuh)
// Found by itself: deadlocks, divergent or early-exit barriers, shared-memory limits, bad launches,
// NaN from uninitialised shared memory, results that depend on thread order (EMU_SCHEDULE, EMU_SEED).
// With -fsanitize=address: out of bounds, remote access after a block's exit. With -fsanitize=thread: races.
#pragma once
#include <cuda_runtime.h>  // host half of the toolkit's headers: dim3, float4, cudaStream_t, ...
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <sys/mman.h>
#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#if __has_feature(thread_sanitizer)
#define __SANITIZE_THREAD__ 1
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#define EMU_REL(p) __tsan_release((void*)(p))
#define EMU_ACQ(p) __tsan_acquire((void*)(p))
#define EMU_RAW __attribute__((no_sanitize("thread"), noinline))  // emulation internals: not part of the race model
#else
#define EMU_REL(p) ((void)(p))
#define EMU_ACQ(p) ((void)(p))
#define EMU_RAW
#endif
#if !defined(__x86_64__) && !defined(EMU_UCONTEXT)
#define EMU_UCONTEXT
#endif
#ifdef EMU_UCONTEXT
#include <ucontext.h>
#endif

namespace emu {
#define EMU_AT const char *f = __builtin_FILE(), int l = __builtin_LINE()
constexpr size_t kMaxSmem = 232448, kDefSmem = 49152, kDeposit = 64;  // H100/H200 limits; bytes a lane deposits
constexpr unsigned kSnap = 8;
enum Op { RUN, YIELD, BLOCK, WARP, NAMED, CLUSTER, GRID, ALLOC, FAIL, DONE };
inline const char* op_name(Op o) {
  static const char* n[] = {"is runnable", "spins", "waits in __syncthreads", "waits in a warp collective", "waits in a named barrier",
                            "waits in cluster.sync", "waits in grid.sync", "", "", "has exited"};
  return n[o];
}
struct Block;
struct Copy { void* d; const void* s; int n, valid; };
struct Fiber {
#ifdef EMU_UCONTEXT
  ucontext_t ctx;
#endif
  void* sp = nullptr;
  char* stack = nullptr;
  Block* blk = nullptr;
  uint3 tid{};
  int lin = 0, line = 0, bar = 0, need = 0;
  unsigned mask = 0, snap = 0, collectives = 0;
  Op op = RUN;
  const char *file = "", *what = "";
  const void* arg = nullptr;  // deposit, or shared array's key
  size_t argn = 0;
  char err[512] = "";
  std::vector<Copy> cpq[16];  // cp.async groups not yet waited for
  int ngroups = 0;
  void *fake = nullptr, *ts = nullptr;  // asan, tsan
};
struct Warp { unsigned seq = 0; char sync[2] = {}; alignas(16) char snap[kSnap][32 * kDeposit]; };
struct Mem { const void* key; char* p; size_t n; };
struct Bar { int count = 0, need = 0; unsigned gen = 0; char sync[2] = {}; };  // two sync variables for tsan: even and odd generations
struct Group { std::vector<Block*> blocks; int arrived = 0, total = 0, done = 0; unsigned gen = 0; char sync[2] = {}, end = 0; };
struct Block {
  uint3 idx{};
  int rank = 0, live = 0, arrived = 0, nmem = 0;
  unsigned gen = 0;
  char sync[2] = {}, memsync = 0;
  Mem mem[33] = {};  // [0] is the dynamic one
  std::vector<std::unique_ptr<Fiber>> th;
  std::vector<std::unique_ptr<Warp>> warps;
  Bar named[16];
  Group* cluster = nullptr;
};
struct Launch { dim3 grid, block; size_t smem = 0; bool coop = false; unsigned cluster = 1; const char* name = "kernel"; };
struct Config {
  enum { FIFO, LIFO, RAND } order = RAND;
  unsigned seed = 1, resident = 2;   // clusters alive at once in a launch that is not cooperative
  bool allow_exit = false;           // threads may exit while others still use __syncthreads
  int sms = 132;                     // for the cooperative-launch limit
  void set_schedule(const std::string& name) {  // "fifo", "lifo", "rand<seed>"
    if (name == "fifo") order = FIFO;
    else if (name == "lifo") order = LIFO;
    else if (name.rfind("rand", 0) == 0) { order = RAND; seed = name.size() > 4 ? std::stoul(name.substr(4)) : 1; }
    else throw std::invalid_argument("EMU_SCHEDULE: expected fifo, lifo or rand<seed>, got " + name);
  }
  Config() {
    if (const char* o = getenv("EMU_SCHEDULE")) set_schedule(o);
  }
};
inline Config config;
struct Stats { long switches = 0, barriers = 0, launches = 0; size_t max_smem = 0; };
inline Stats stats;
struct Sched {
  Fiber main;
  std::deque<Fiber*> ready;
  std::vector<char*> pool;
  std::vector<std::unique_ptr<Block>> blocks;
  std::vector<std::unique_ptr<Group>> clusters;
  Group grid;
  Launch L;
  std::function<void()> body;
  std::minstd_rand rng;
  unsigned fast = 1;
  char sync = 0;
  long spins = 0;
  const void* bottom = nullptr;
  size_t size = 0;
};
inline Sched S;
inline Fiber* self = nullptr;
inline std::mutex mutex;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr size_t kStack = 256 << 10;
#else
constexpr size_t kStack = 64 << 10;
#endif

// ---------------------------------------------------------------- fibers
#ifndef EMU_UCONTEXT
__attribute__((naked, noinline, unused)) static void raw_switch(void**, void*) {
  asm volatile("pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n movq %rsp,(%rdi)\n"
               "movq %rsi,%rsp\n popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret\n");
}
#endif
EMU_RAW inline void switch_to(Fiber* a, Fiber* b) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(a->op == DONE ? nullptr : &a->fake, b == &S.main ? S.bottom : b->stack, b == &S.main ? S.size : kStack);
#endif
#ifdef __SANITIZE_THREAD__
  __tsan_switch_to_fiber(b->ts, 1 /* no happens-before edge */);
#endif
#ifdef EMU_UCONTEXT
  swapcontext(&a->ctx, &b->ctx);
#else
  raw_switch(&a->sp, b->sp);
#endif
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(a->fake, a == &S.main ? nullptr : &S.bottom, a == &S.main ? nullptr : &S.size);
#endif
}
EMU_RAW inline void call_main(Op op, const char* f, int l) {
  Fiber* me = self;
  me->op = op; me->file = f; me->line = l;
  switch_to(me, &S.main);
}
inline void check_copies();
EMU_RAW inline void fiber_entry() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, &S.bottom, &S.size);
#endif
  EMU_ACQ(&S.sync);
  S.body();
  check_copies();
  EMU_REL(&S.grid.end);
  call_main(DONE, "", 0);
  abort();
}
inline void start(Fiber* f) {
#ifndef __SANITIZE_THREAD__  // tsan: always fresh pages, or a reused stack would look like a race
  if (S.pool.size()) { f->stack = S.pool.back(); S.pool.pop_back(); }
#endif
  if (!f->stack) f->stack = (char*)mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(f->stack, kStack);
#endif
#ifdef EMU_UCONTEXT
  getcontext(&f->ctx);
  f->ctx.uc_stack.ss_sp = f->stack; f->ctx.uc_stack.ss_size = kStack; f->ctx.uc_link = nullptr;
  makecontext(&f->ctx, fiber_entry, 0);
#else
  void** s = (void**)(f->stack + kStack) - 1;
  *--s = (void*)fiber_entry;
  for (int i = 0; i < 6; i++) *--s = nullptr;
  f->sp = s;
#endif
#ifdef __SANITIZE_THREAD__
  f->ts = __tsan_create_fiber(0);
#endif
}
inline void stop(Fiber* f) {
#ifdef __SANITIZE_THREAD__
  __tsan_destroy_fiber(f->ts);
  munmap(f->stack, kStack);
#else
  S.pool.push_back(f->stack);
#endif
  f->stack = nullptr;
}

// ---------------------------------------------------------------- called from kernels
[[noreturn]] EMU_RAW inline void die(const char* fmt, ...) {  // launch() throws it
  va_list ap; va_start(ap, fmt); vsnprintf(self->err, sizeof self->err, fmt, ap); va_end(ap);
  call_main(FAIL, "", 0);
  abort();
}
EMU_RAW inline void syncthreads(EMU_AT) { Block* b = self->blk; char* s = &b->sync[b->gen & 1]; EMU_REL(s); call_main(BLOCK, f, l); EMU_ACQ(s); }
EMU_RAW inline void cluster_sync(EMU_AT) { Group* g = self->blk->cluster; char* s = &g->sync[g->gen & 1]; EMU_REL(s); call_main(CLUSTER, f, l); EMU_ACQ(s); }
EMU_RAW inline void grid_sync(EMU_AT) {
  if (!S.L.coop) die("grid.sync at %s:%d in a launch that is not cooperative", f, l);
  char* s = &S.grid.sync[S.grid.gen & 1]; EMU_REL(s); call_main(GRID, f, l); EMU_ACQ(s);
}
EMU_RAW inline void named_sync(int id, int need, EMU_AT) {  // bar.sync id, need
  Bar* b = &self->blk->named[id]; self->bar = id; self->need = need;
  char* s = &b->sync[b->gen & 1]; EMU_REL(s); call_main(NAMED, f, l); EMU_ACQ(s);
}
EMU_RAW inline void spin_pause(EMU_AT) { call_main(YIELD, f, l); }
EMU_RAW inline void maybe_yield() {  // let other threads in between atomics
  if (config.order == Config::RAND && (S.fast = S.fast * 1664525u + 1013904223u) >> 29 == 0) { S.spins--; call_main(YIELD, "atomic", 0); }
}
// every lane of mask deposits n bytes and gets the 32 deposits back
EMU_RAW inline const char* exchange(unsigned mask, const void* v, size_t n, const char* what, const char* f, int l) {
  Warp* w = self->blk->warps[self->lin / 32].get();
  self->mask = mask; self->arg = v; self->argn = n; self->what = what;
  char* s = &w->sync[self->collectives++ & 1];
  EMU_REL(s); call_main(WARP, f, l); EMU_ACQ(s);
  return w->snap[self->snap % kSnap];
}
template <class T> inline T shfl(unsigned m, T v, int src, const char* what, const char* f, int l) {
  static_assert(sizeof(T) <= kDeposit);
  const char* s = exchange(m, &v, sizeof(T), what, f, l);
  if (src < 0 || src > 31) return v;
  if (!(m >> src & 1)) die("%s at %s:%d reads lane %d, which is not in mask %08x", what, f, l, src, m);
  T r; memcpy(&r, s + src * sizeof(T), sizeof(T)); return r;
}
EMU_RAW inline void* smem(const void* key, size_t n, EMU_AT) {
  Block* b = self->blk; int i = 0;
  if (key) for (i = 1; i <= b->nmem && b->mem[i].key != key; i++) {}
  if (key && i > b->nmem) { self->arg = key; self->argn = n; call_main(ALLOC, f, l); for (i = 1; b->mem[i].key != key; i++) {} }
  EMU_ACQ(&b->memsync);
  return b->mem[i].p;
}
EMU_RAW inline void* map_shared(const void* p, unsigned rank, EMU_AT) {
  Block* b = self->blk;
  if (rank >= b->cluster->blocks.size()) die("map_shared_rank at %s:%d: rank %u of a cluster of %zu", f, l, rank, b->cluster->blocks.size());
  Block* t = b->cluster->blocks[rank];
  if (t->live == 0) die("map_shared_rank at %s:%d: block of rank %u has exited", f, l, rank);
  for (int i = 0; i <= b->nmem; i++)
    if ((char*)p >= b->mem[i].p && (char*)p < b->mem[i].p + b->mem[i].n) {
      Fiber* me = self; me->blk = t;  // look it up (or allocate it) as a thread of the other block would
      char* q = (char*)smem(b->mem[i].key, b->mem[i].n, f, l);
      me->blk = b;
      return q + ((char*)p - b->mem[i].p);
    }
  die("map_shared_rank at %s:%d: not a shared-memory address", f, l);
}
EMU_RAW inline Fiber* me() { return self; }
EMU_RAW inline int lane() { return self->lin % 32; }
EMU_RAW inline unsigned cluster_rank() { return self->blk->rank; }
EMU_RAW inline const uint3& tid() { return self->tid; }
EMU_RAW inline const uint3& bid() { return self->blk->idx; }
EMU_RAW inline const dim3& bdim() { return S.L.block; }
EMU_RAW inline const dim3& gdim() { return S.L.grid; }
// cp.async: the copy is made as late as allowed, at the wait (FIFO order: as early as possible)
inline void do_copy(const Copy& c) { memcpy(c.d, c.s, c.valid); memset((char*)c.d + c.valid, 0, c.n - c.valid); }
inline void cp_async(void* d, const void* s, int n, int valid) {
  if ((uintptr_t)d % n || (uintptr_t)s % n) die("cp.async of %d bytes: %p <- %p is misaligned", n, d, s);
  Copy c{d, s, n, valid};
  if (config.order == Config::FIFO) do_copy(c); else me()->cpq[me()->ngroups].push_back(c);
}
inline void check_copies() { for (auto& q : me()->cpq) if (!q.empty()) die("thread exits with a cp.async not waited for"); }
inline void cp_commit() { if (++me()->ngroups > 15) die("over 15 cp.async groups"); }
inline void cp_wait(int keep) {
  Fiber* t = me();
  for (; t->ngroups > keep; t->ngroups--) {
    for (auto& c : t->cpq[0]) do_copy(c);
    for (int i = 0; i < 15; i++) t->cpq[i].swap(t->cpq[i + 1]);
    t->cpq[15].clear();
  }
}

// ---------------------------------------------------------------- scheduler (main context only)
inline void fail(const std::string& m) { throw std::runtime_error(std::string("CUDA emulation: ") + S.L.name + ": " + m); }
template <class... A> inline std::string fmt(const char* f, A... a) { char b[700]; snprintf(b, sizeof b, f, a...); return b; }
inline void wake(Fiber* f) { f->op = RUN; S.ready.push_back(f); }
inline void deadlock(const char* what) {
  std::map<std::string, std::pair<int, std::string>> m;
  for (auto& b : S.blocks) for (auto& t : b->th) {
    auto& e = m[std::string(op_name(t->op)) + (t->op == DONE ? "" : fmt(" at %s:%d", t->file, t->line))];
    if (!e.first++) e.second = fmt("block %u thread %d", b->idx.x, t->lin);
  }
  std::string s = what;
  for (auto& [k, e] : m) s += fmt("\n  %d thread(s), first %s: %s", e.first, e.second.c_str(), k.c_str());
  fail(s);
}
inline void add_mem(Block* b, int i, const void* key, size_t n) {
  char* p = nullptr;
  if (posix_memalign((void**)&p, 1024, n ? n : 1)) fail("out of memory");
  if (n) memset(p, 0xff, n);  // NaN in float, half and bf16; -1 in integers
  b->mem[i] = {key, p, n};
  size_t all = 0;
  for (int j = 0; j <= std::max(i, b->nmem); j++) all += b->mem[j].n;
  stats.max_smem = std::max(stats.max_smem, all);
  if (all > kMaxSmem) fail(fmt("%zu bytes of shared memory, the limit is %zu", all, kMaxSmem));
  EMU_REL(&b->memsync);
}
inline void free_mem(Block* b) { for (auto& m : b->mem) { free(m.p); m.p = nullptr; m.n = 0; } }
inline void admit(Group* c) {
  for (Block* b : c->blocks) {
    dim3 d = S.L.block; int n = d.x * d.y * d.z;
    add_mem(b, 0, nullptr, S.L.smem);
    for (int i = 0; i < (n + 31) / 32; i++) b->warps.emplace_back(new Warp);
    for (int i = 0; i < n; i++) {
      auto* f = new Fiber; b->th.emplace_back(f);
      f->blk = b; f->lin = i; f->tid = {i % d.x, i / d.x % d.y, i / d.x / d.y};
      start(f);
    }
    b->live = n;
  }
  EMU_REL(&S.sync);
  for (Block* b : c->blocks) for (auto& f : b->th) S.ready.push_back(f.get());
}
inline void release_block(Block* b) {
  b->arrived = 0; b->gen++; stats.barriers++;
  for (auto& t : b->th) if (t->op == BLOCK) wake(t.get());
}
inline void on_block(Fiber* f) {
  Block* b = f->blk; const Fiber* o = nullptr;
  for (auto& t : b->th) if (t->op == BLOCK && t.get() != f) { o = t.get(); break; }
  if (o && (o->line != f->line || strcmp(o->file, f->file)))
    fail(fmt("divergent __syncthreads in block %u: thread %d at %s:%d, thread %d at %s:%d", b->idx.x, o->lin, o->file, o->line, f->lin, f->file, f->line));
  if (b->live < (int)b->th.size() && !config.allow_exit) fail(fmt("__syncthreads at %s:%d: %d threads of block %u had exited", f->file, f->line, int(b->th.size()) - b->live, b->idx.x));
  if (++b->arrived == b->live) release_block(b);
}
inline void on_group(Fiber* f, Group* g, Op op) {
  if (++g->arrived < g->total) return;
  g->arrived = 0; g->gen++; stats.barriers++;
  for (Block* b : g->blocks) for (auto& t : b->th) if (t->op == op) wake(t.get());
}
EMU_RAW inline void copy_raw(char* d, const char* s, size_t n) {
#ifdef __SANITIZE_THREAD__  // memcpy would be seen by tsan
  for (size_t i = 0; i < n; i++) ((volatile char*)d)[i] = ((const volatile char*)s)[i];
#else
  if (n) memcpy(d, s, n);
#endif
}
inline void on_warp(Fiber* f) {
  Block* b = f->blk; int w = f->lin / 32, base = w * 32, n = std::min<int>(32, (int)b->th.size() - base); Warp& W = *b->warps[w];
  auto say = [&](const Fiber* t) { return fmt("lane %d in %s at %s:%d mask %08x", t->lin % 32, t->what, t->file, t->line, t->mask); };
  if (n < 32) f->mask &= (1u << n) - 1;
  if (!(f->mask >> (f->lin - base) & 1)) fail(say(f) + ": not in its own mask");
  bool all = true;
  for (int i = 0; i < n; i++) if (f->mask >> i & 1) {
    Fiber* t = b->th[base + i].get();
    if (t->op == DONE) fail(say(f) + fmt(": lane %d has exited", i));
    if (t->op != WARP) { all = false; continue; }
    if (t->mask != f->mask || t->line != f->line || t->argn != f->argn || strcmp(t->what, f->what)) fail("divergent warp collective: " + say(t) + ", " + say(f));
  }
  if (!all) return;
  unsigned q = W.seq++;
  for (int i = 0; i < n; i++) if (f->mask >> i & 1) {
    Fiber* t = b->th[base + i].get();
    copy_raw(W.snap[q % kSnap] + i * t->argn, (const char*)t->arg, t->argn);
    t->snap = q; wake(t);
  }
}
inline void on_named(Fiber* f) {
  Block* b = f->blk; Bar& B = b->named[f->bar];
  if (f->need % 32 || (B.count && B.need != f->need)) fail(fmt("named barrier %d at %s:%d: counts %d and %d", f->bar, f->file, f->line, B.need, f->need));
  B.need = f->need;
  if (++B.count < B.need) return;
  B.count = 0; B.gen++; stats.barriers++;
  for (auto& t : b->th) if (t->op == NAMED && t->bar == f->bar) wake(t.get());
}
inline bool on_done(Fiber* f) {  // true: its cluster is finished
  Block* b = f->blk;
  stop(f);
  if (--b->live == 0) {
#ifndef __SANITIZE_THREAD__
    free_mem(b);
#endif
    return ++b->cluster->done == (int)b->cluster->blocks.size();
  }
  if (b->arrived && !config.allow_exit) deadlock(fmt("thread %d of block %u exits while others wait in __syncthreads", f->lin, b->idx.x).c_str());
  if (b->arrived == b->live) release_block(b);
  return false;
}
inline void run(const Launch& L, std::function<void()> body) {
  std::lock_guard<std::mutex> lock(mutex);
  if (self) throw std::runtime_error("CUDA emulation: nested launch");
  S.L = L; S.body = std::move(body); S.ready.clear(); S.blocks.clear(); S.clusters.clear(); S.spins = 0; stats.launches++;
  S.rng.seed(S.fast = config.seed * 7919u + stats.launches);
  unsigned n = L.block.x * L.block.y * L.block.z, G = L.grid.x * L.grid.y * L.grid.z;
  if (!n || n > 1024 || !G) fail(fmt("bad launch: %u blocks of %u threads", G, n));
  if (L.smem > kMaxSmem) fail(fmt("%zu bytes of dynamic shared memory", L.smem));
  if (L.cluster > 16 || L.grid.x % L.cluster) fail(fmt("cluster of %u does not divide the grid", L.cluster));
  if (L.coop && G > unsigned(config.sms) * std::max(1u, unsigned(std::min<size_t>(2048 / n, kMaxSmem / (L.smem + 1024))))) fail("cooperative launch too large");
  S.grid = Group{}; S.grid.total = n * G;
  for (unsigned g = 0; g < G; g += L.cluster) {
    auto* c = new Group; S.clusters.emplace_back(c); c->total = n * L.cluster;
    for (unsigned r = 0; r < L.cluster; r++) {
      auto* b = new Block; S.blocks.emplace_back(b);
      b->idx = {(g + r) % L.grid.x, (g + r) / L.grid.x % L.grid.y, (g + r) / L.grid.x / L.grid.y};
      b->rank = r; b->cluster = c;
      c->blocks.push_back(b); S.grid.blocks.push_back(b);
    }
  }
  std::vector<Group*> todo;
  for (auto& c : S.clusters) todo.push_back(c.get());
  if (config.order == Config::RAND) std::shuffle(todo.begin(), todo.end(), S.rng);
  if (config.order == Config::FIFO) std::reverse(todo.begin(), todo.end());  // taken from the back
#ifdef __SANITIZE_THREAD__
  S.main.ts = __tsan_get_current_fiber();
#endif
  struct Cleanup { ~Cleanup() { self = nullptr; EMU_ACQ(&S.grid.end); for (auto& b : S.blocks) { free_mem(b.get()); for (auto& t : b->th) if (t->stack) stop(t.get()); } } } cleanup;
  size_t alive = 0;
  while (true) {
    while (todo.size() && (L.coop || alive < config.resident)) { admit(todo.back()); todo.pop_back(); alive++; }
    if (S.ready.empty()) { if (alive) deadlock("deadlock:"); break; }
    Fiber* f;
    if (config.order == Config::RAND) std::swap(S.ready[S.rng() % S.ready.size()], S.ready.back());
    if (config.order == Config::FIFO) { f = S.ready.front(); S.ready.pop_front(); } else { f = S.ready.back(); S.ready.pop_back(); }
    stats.switches++;
    self = f; switch_to(&S.main, f); self = nullptr;
    if (f->op != YIELD) S.spins = 0;
    switch (f->op) {
      case YIELD: if (++S.spins > 200000 + 100 * S.grid.total) { f->op = YIELD; deadlock("livelock: threads only spin:"); }
                  f->op = YIELD; config.order == Config::LIFO ? S.ready.push_front(f) : S.ready.push_back(f); break;
      case BLOCK: on_block(f); break;
      case WARP: on_warp(f); break;
      case NAMED: on_named(f); break;
      case CLUSTER: on_group(f, f->blk->cluster, CLUSTER); break;
      case GRID: on_group(f, &S.grid, GRID); break;
      case ALLOC: if (f->blk->nmem == 32) fail("over 32 shared arrays"); add_mem(f->blk, f->blk->nmem + 1, f->arg, f->argn); f->blk->nmem++;
                  f->op = RUN; config.order == Config::FIFO ? S.ready.push_front(f) : S.ready.push_back(f); break;
      case DONE: if (on_done(f)) alive--; break;
      case FAIL: fail(std::string(f->err) + fmt(" [block %u thread %d]", f->blk->idx.x, f->lin)); break;
      default: fail("internal error");
    }
  }
}
}  // namespace emu

// ---------------------------------------------------------------- CUDA's names
#undef __global__
#undef __device__
#undef __host__
#undef __constant__
#undef __shared__
#undef __forceinline__
#undef __noinline__
#undef __launch_bounds__
#undef __cluster_dims__
#undef __grid_constant__
#define __global__
#define __device__
#define __host__
#define __constant__
#define __shared__ emulation_error_use_SHARED_or_DYN_SHARED
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __grid_constant__
#define threadIdx (::emu::tid())
#define blockIdx (::emu::bid())
#define blockDim (::emu::bdim())
#define gridDim (::emu::gdim())
#define warpSize 32
#define __expf(x) ::expf(x)
#define __logf(x) ::logf(x)
#define __fdividef(a, b) ((a) / (b))
inline void __syncthreads(EMU_AT) { emu::syncthreads(f, l); }
inline void __syncwarp(unsigned m = ~0u, EMU_AT) { emu::exchange(m, nullptr, 0, "__syncwarp", f, l); }
template <class T> inline T __shfl_sync(unsigned m, T v, int src, int w = 32, EMU_AT) { return emu::shfl(m, v, (emu::lane() & ~(w - 1)) | (src & (w - 1)), "__shfl_sync", f, l); }
inline int emu_lane() { return emu::lane(); }
template <class T> inline T __shfl_xor_sync(unsigned m, T v, int x, int w = 32, EMU_AT) { int j = emu_lane() ^ x; return emu::shfl(m, v, j / w > emu_lane() / w ? -1 : j, "__shfl_xor_sync", f, l); }
template <class T> inline T __shfl_down_sync(unsigned m, T v, unsigned d, int w = 32, EMU_AT) { int i = emu_lane(), j = i + d; return emu::shfl(m, v, j / w == i / w ? j : -1, "__shfl_down_sync", f, l); }
template <class T> inline T __shfl_up_sync(unsigned m, T v, unsigned d, int w = 32, EMU_AT) { int i = emu_lane(), j = i - (int)d; return emu::shfl(m, v, j >= 0 && j / w == i / w ? j : -1, "__shfl_up_sync", f, l); }
inline unsigned __ballot_sync(unsigned m, int p, EMU_AT) {
  const int* s = (const int*)emu::exchange(m, &p, 4, "__ballot_sync", f, l); unsigned r = 0;
  for (int i = 0; i < 32; i++) if ((m >> i & 1) && s[i]) r |= 1u << i;
  return r;
}
inline int __any_sync(unsigned m, int p, EMU_AT) { return __ballot_sync(m, p, f, l) != 0; }
inline int __all_sync(unsigned m, int p, EMU_AT) { return __ballot_sync(m, !p, f, l) == 0; }
inline unsigned __activemask() { emu::die("__activemask is not supported: name the mask"); }
template <class T> inline T __ldg(const T* p) { return *p; }
template <class T> inline T __ldcg(const T* p) { return *p; }
template <class T> inline void __stcg(T* p, T v) { *p = v; }
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __nanosleep(unsigned, EMU_AT) { emu::spin_pause(f, l); }
inline float rsqrtf(float x) { return 1.f / std::sqrt(x); }
inline float __frcp_rn(float x) { return 1.f / x; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __saturatef(float x) { return x >= 1 ? 1.f : x > 0 ? x : 0.f; }
inline unsigned __float_as_uint(float x) { unsigned u; memcpy(&u, &x, 4); return u; }
inline int __float_as_int(float x) { int u; memcpy(&u, &x, 4); return u; }
inline float __uint_as_float(unsigned u) { float x; memcpy(&x, &u, 4); return x; }
inline float __int_as_float(int u) { float x; memcpy(&x, &u, 4); return x; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((unsigned long long)a * b >> 32); }
using std::max;
using std::min;
template <class T, class F> inline T emu_rmw(T* p, F op) {
  emu::maybe_yield();
  T o, n; __atomic_load(p, &o, __ATOMIC_RELAXED);
  do { n = op(o); } while (!__atomic_compare_exchange(p, &o, &n, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return o;
}
template <class T> inline T atomicAdd(T* p, std::common_type_t<T> v) { return emu_rmw(p, [=](T o) { return T(o + v); }); }
template <class T> inline T atomicMax(T* p, std::common_type_t<T> v) { return emu_rmw(p, [=](T o) { return o > v ? o : v; }); }
template <class T> inline T atomicExch(T* p, std::common_type_t<T> v) { return emu_rmw(p, [=](T) { return v; }); }
template <class T> inline T atomicCAS(T* p, std::common_type_t<T> c, std::common_type_t<T> v) { return emu_rmw(p, [=](T o) { return o == c ? v : o; }); }
namespace cooperative_groups {
struct grid_group { void sync(EMU_AT) const { emu::grid_sync(f, l); } };
struct thread_block { void sync(EMU_AT) const { emu::syncthreads(f, l); } };
struct cluster_group {
  void sync(EMU_AT) const { emu::cluster_sync(f, l); }
  unsigned block_rank() const { return emu::cluster_rank(); }
  unsigned num_blocks() const { return emu::S.L.cluster; }
  template <class T> T* map_shared_rank(T* p, unsigned r, EMU_AT) const { return (T*)emu::map_shared((const void*)p, r, f, l); }
};
inline grid_group this_grid() { return {}; }
inline thread_block this_thread_block() { return {}; }
inline cluster_group this_cluster() { return {}; }
}  // namespace cooperative_groups
