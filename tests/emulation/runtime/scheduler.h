// Runs one launch: admits clusters, picks the next thread, and decides when a barrier or collective is complete.
//
// It finds by itself: deadlocks, barriers that diverge or that a thread has left out, spinning that nobody can end,
// and launches or shared memory beyond the machine's limits. All are std::runtime_error, thrown by LAUNCH.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <random>
#include <stdexcept>
#include <utility>

#include "async.h"
#include "memory.h"

namespace emu {

// Clusters alive at once in a launch that is not cooperative: enough to find blocks that wait for one another.
constexpr size_t kResidentClusters = 2;

inline std::mutex launch_mutex;

EMU_UNCHECKED inline void thread_main() {
  enter_fiber(running->scheduler);
  acquire(&running->start_order);
  weak::watching = true;
  running->body();
  weak::watching = false;
  check_no_copy_pending();
  release(&running->end_order);
  suspend(State::kExited, {});
  abort();
}

class Scheduler {
 public:
  Scheduler(const Launch& launch, std::function<void()> body) {
    grid_.launch = launch;
    grid_.schedule = config.schedule();
    grid_.body = std::move(body);
    grid_.scheduler.tsan = tsan_current_fiber();
    grid_.dice = grid_.schedule.seed * 7919u + ++stats.launches;
    ++stats.launches_by_name[launch.name];
    random_.seed(grid_.dice);
    weak::memory = {};
    weak::memory.dice = grid_.dice;
    check_limits();
    running = &grid_;
    lay_out_blocks();
  }

  Scheduler(const Scheduler&) = delete;

  ~Scheduler() {
    current = nullptr;
    weak::show(nullptr);
    weak::memory = {};
    acquire(&grid_.end_order);
    for (const auto& cluster : grid_.clusters) {
      for (const auto& block : cluster->blocks) {
        for (const auto& thread : block->threads) abandon(*thread);
        free_shared(*block);
      }
    }
    running = nullptr;
  }

  void run() {
    size_t resident = 0;
    while (true) {
      while (!waiting_.empty() && (grid_.launch.cooperative || resident < kResidentClusters)) {
        admit(*waiting_.back());
        waiting_.pop_back();
        resident++;
      }
      if (ready_.empty() && resident) stuck("deadlock:");
      if (ready_.empty()) break;
      Thread& thread = take_next();
      if constexpr (weak::kOn) weak::show(&thread.block->view);
      current = &thread;
      switch_fiber(grid_.scheduler, thread.fiber);
      current = nullptr;
      if (serve(thread)) resident--;
      const bool spins = thread.state == State::kSpinning;
      land_some(spins);
      if constexpr (weak::kOn) let_stores_drift(spins);
    }
    for (const auto& cluster : grid_.clusters) {
      for (const auto& block : cluster->blocks) weak::release_all(block->view);
    }
  }

 private:
  [[noreturn]] void fail(const std::string& message) const {
    throw std::runtime_error(std::string("CUDA emulation: ") + grid_.launch.name + ": " + message);
  }

  void check_limits() const {
    const Launch& launch = grid_.launch;
    const unsigned threads = block_threads(), blocks = launch.grid.x * launch.grid.y * launch.grid.z;
    if (!blocks || !threads || threads > kMaxBlockThreads) {
      fail(format("bad launch: %u blocks of %u threads", blocks, threads));
    }
    if (launch.shared_bytes > kMaxSharedBytes) {
      fail(format("%zu bytes of dynamic shared memory, the limit is %zu", launch.shared_bytes, kMaxSharedBytes));
    }
    if (!launch.cluster || launch.cluster > kMaxClusterBlocks || launch.grid.x % launch.cluster) {
      fail(format("cluster of %u blocks: at most %u, and a divisor of the grid's %u", launch.cluster, kMaxClusterBlocks,
                  launch.grid.x));
    }
    const size_t by_memory = kMaxSharedBytes / (launch.shared_bytes + kReservedSharedBytes);
    const size_t at_once = std::max<size_t>(1, std::min<size_t>(kMultiprocessorThreads / threads, by_memory));
    if (launch.cooperative && blocks > kMultiprocessors * at_once) {
      fail(format("cooperative launch of %u blocks, at most %zu run at once", blocks, kMultiprocessors * at_once));
    }
  }

  unsigned block_threads() const { return grid_.launch.block.x * grid_.launch.block.y * grid_.launch.block.z; }

  void lay_out_blocks() {
    const dim3 extent = grid_.launch.grid;
    const unsigned blocks = extent.x * extent.y * extent.z;
    for (unsigned i = 0; i < blocks; i++) {
      if (i % grid_.launch.cluster == 0) grid_.clusters.push_back(std::make_unique<Cluster>());
      auto block = std::make_unique<Block>();
      block->index = {i % extent.x, i / extent.x % extent.y, i / extent.x / extent.y};
      block->cluster = grid_.clusters.back().get();
      block->cluster->blocks.push_back(std::move(block));
    }
    for (const auto& cluster : grid_.clusters) waiting_.push_back(cluster.get());
    const Order order = grid_.schedule.order;
    if (order == Order::kRandom) std::shuffle(waiting_.begin(), waiting_.end(), random_);
    if (order == Order::kFifo) std::reverse(waiting_.begin(), waiting_.end());  // taken from the back
  }

  void admit(Cluster& cluster) {
    const dim3 extent = grid_.launch.block;
    for (const auto& block : cluster.blocks) {
      allocate_shared(*block, 0, nullptr, grid_.launch.shared_bytes);
      block->alive = block_threads();
      for (unsigned i = 0; i < block->alive; i++) {
        if (i % kWarpSize == 0) block->warps.push_back(std::make_unique<Warp>());
        block->warps.back()->lanes |= 1u << i % kWarpSize;
        block->threads.push_back(std::make_unique<Thread>());
        Thread& thread = *block->threads.back();
        thread.block = block.get();
        thread.rank = static_cast<int>(i);
        thread.index = {i % extent.x, i / extent.x % extent.y, i / extent.x / extent.y};
        start_fiber(thread.fiber, thread_main);
        block->barrier.members.push_back(&thread);
        cluster.barrier.members.push_back(&thread);
        grid_.barrier.members.push_back(&thread);
        ready_.push_back(&thread);
      }
    }
    release(&grid_.start_order);
  }

  Thread& take_next() {
    if (grid_.schedule.order == Order::kRandom) std::swap(ready_[random_() % ready_.size()], ready_.back());
    Thread* thread = grid_.schedule.order == Order::kFifo ? ready_.front() : ready_.back();
    if (grid_.schedule.order == Order::kFifo) {
      ready_.pop_front();
    } else {
      ready_.pop_back();
    }
    return *thread;
  }

  // Does what the thread came back for; true when its cluster has exited with it.
  bool serve(Thread& thread) {
    if (thread.state != State::kSpinning && thread.state != State::kPreempted) spins_ = 0;
    switch (thread.state) {
      case State::kPreempted: ready_.push_back(&thread); break;
      case State::kSpinning: on_spin(thread); break;
      case State::kAtBlockBarrier: on_block_barrier(thread); break;
      case State::kArrivesAtCluster: on_cluster_arrival(thread); break;
      case State::kAtClusterBarrier: break;  // the last arrival wakes it
      case State::kAtGridBarrier: arrive(grid_.barrier, thread); break;
      case State::kAtWarpCollective: on_warp_collective(thread); break;
      case State::kAllocating: on_allocation(thread); break;
      case State::kIssuing: on_issue(thread); break;
      case State::kFailed:
        tsan_join(thread.fiber.tsan);
        fail(thread.error + format(" [block %u thread %d]", thread.block->index.x, thread.rank));
      case State::kExited: return on_exit(thread);
      case State::kRunnable: std::abort();  // nobody comes back without a reason
    }
    return false;
  }

  void wake(Thread& thread) {
    thread.state = State::kRunnable;
    ready_.push_back(&thread);
  }

  void on_spin(Thread& thread) {
    if (++spins_ > 200000 + 100 * static_cast<long>(grid_.barrier.members.size())) {
      stuck("livelock: threads only spin:");
    }
    if (grid_.schedule.order == Order::kLifo) {
      ready_.push_front(&thread);  // or it would always be the next
    } else {
      ready_.push_back(&thread);
    }
  }

  void arrive(Barrier& barrier, Thread& thread) {
    if (!barrier.arrived++) barrier.first = &thread;
    if (barrier.arrived < barrier.members.size()) return;
    barrier.arrived = 0;
    barrier.generation++;
    for (Thread* member : barrier.members) wake(*member);
  }

  void on_cluster_arrival(Thread& thread) {
    Barrier& barrier = thread.block->cluster->barrier;
    if (++barrier.arrived == barrier.members.size()) {
      barrier.arrived = 0;
      barrier.generation++;
      for (Thread* member : barrier.members) {
        if (member->state == State::kAtClusterBarrier) wake(*member);
      }
    }
    wake(thread);
  }

  void on_block_barrier(Thread& thread) {
    const Block& block = *thread.block;
    const Thread* other = block.barrier.first;
    if (block.barrier.arrived && (other->at.line != thread.at.line || std::strcmp(other->at.file, thread.at.file))) {
      fail(format("divergent __syncthreads in block %u: thread %d at %s:%d, thread %d at %s:%d", block.index.x,
                  other->rank, other->at.file, other->at.line, thread.rank, thread.at.file, thread.at.line));
    }
    if (block.alive < block.threads.size()) {
      fail(format("__syncthreads at %s:%d: %zu threads of block %u had exited", thread.at.file, thread.at.line,
                  block.threads.size() - block.alive, block.index.x));
    }
    arrive(thread.block->barrier, thread);
  }

  void on_warp_collective(Thread& thread) {
    Block& block = *thread.block;
    const std::unique_ptr<Thread>* lanes = block.threads.data() + thread.rank / kWarpSize * kWarpSize;
    Warp& warp = *block.warps[thread.rank / kWarpSize];
    const WarpRequest& asked = thread.warp_request;
    warp.waiting |= 1u << thread.lane();
    if (!(asked.mask >> thread.lane() & 1)) fail(describe_collective(thread) + ": not in its own mask");
    if (const unsigned exited = asked.mask & warp.exited) {
      fail(describe_collective(thread) + format(": lane %d has exited", __builtin_ctz(exited)));
    }
    bool complete = !(asked.mask & ~warp.waiting);
    for (unsigned others = asked.mask & warp.waiting; others; others &= others - 1) {
      const Thread& member = *lanes[__builtin_ctz(others)];
      const WarpRequest& its = member.warp_request;
      // A lane in a collective that does not need this one, of half the warp perhaps, comes here later.
      if (!(its.mask >> thread.lane() & 1)) {
        complete = false;
      } else if (its.mask != asked.mask || member.at.line != thread.at.line || its.bytes != asked.bytes ||
                 (its.name != asked.name && std::strcmp(its.name, asked.name))) {
        fail("divergent warp collective: " + describe_collective(member) + ", " + describe_collective(thread));
      }
    }
    if (!complete) return;
    const unsigned number = warp.collectives++;
    char* snapshot = warp.snapshots[number % Warp::kSnapshots];
    warp.waiting &= ~asked.mask;
    for (unsigned members = asked.mask; members; members &= members - 1) {
      Thread& member = *lanes[__builtin_ctz(members)];
      WarpRequest& its = member.warp_request;
      copy_unchecked(snapshot + member.lane() * its.bytes, static_cast<const char*>(its.deposit), its.bytes);
      its.snapshot = number;
      wake(member);
    }
  }

  static std::string describe_collective(const Thread& thread) {
    return format("lane %d in %s at %s:%d mask %08x", thread.lane(), thread.warp_request.name, thread.at.file,
                  thread.at.line, thread.warp_request.mask);
  }

  // By hand, because the race checker looks at memcpy wherever it is called from.
  EMU_UNCHECKED static void copy_unchecked(volatile char* to, const volatile char* from, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) to[i] = from[i];
  }

  void on_allocation(Thread& thread) {
    const SharedRequest& request = thread.shared_request;
    add_shared(*request.block, request.key, request.bytes);
    go_on(thread);
  }

  void add_shared(Block& block, const void* key, size_t bytes) {
    if (block.shared_count == kMaxSharedArrays) fail(format("over %d shared arrays", kMaxSharedArrays));
    allocate_shared(block, block.shared_count + 1, key, bytes);
    block.shared_count++;
  }

  // As if it had never come back, where the schedule lets it.
  void go_on(Thread& thread) {
    thread.state = State::kRunnable;
    if (grid_.schedule.order == Order::kFifo) {
      ready_.push_front(&thread);
    } else {
      ready_.push_back(&thread);
    }
  }

  // ---- what is on its way

  static std::string describe_flight(const Flight& flight) {
    return format("%s at %s:%d", flight.name, flight.at.file, flight.at.line);
  }

  void on_issue(Thread& thread) {
    acquire(&thread.flight_order);
    const auto& blocks = thread.block->cluster->blocks;
    for (size_t rank = 0; rank < blocks.size(); rank++) {
      Flight flight = thread.flight;
      flight.target = blocks[rank].get();
      if (thread.flight_ranks >> rank & 1) {
        flight.to = same_place(*thread.block, *flight.target, flight.to, flight);
        flight.mbarrier = same_place(*thread.block, *flight.target, flight.mbarrier, flight);
      } else if (thread.flight_ranks || !owns(*flight.target, flight.to)) {
        continue;
      }
      flight.from_another_block = flight.target != thread.block;
      check_flight(*thread.block, flight);
      flights_.push_back(flight);
    }
    if (grid_.schedule.order == Order::kFifo) {
      while (!flights_.empty()) land(0);
    }
    go_on(thread);
  }

  // In the target's shared memory what `address` is in the issuing block's.
  char* same_place(const Block& issuer, Block& target, const void* address, const Flight& flight) {
    for (int i = 0; i <= issuer.shared_count; i++) {
      const SharedArray& array = issuer.shared[i];
      if (!holds(array, address)) continue;
      if (!find_shared(target, array.key)) add_shared(target, array.key, array.bytes);
      return find_shared(target, array.key)->data + (static_cast<const char*>(address) - array.data);
    }
    fail(describe_flight(flight) + ": not a shared-memory address");
  }

  void check_flight(Block& issuer, const Flight& flight) {
    const uintptr_t to = reinterpret_cast<uintptr_t>(flight.to), from = reinterpret_cast<uintptr_t>(flight.from);
    if (to % 16 || from % 16 || flight.bytes % 16 || !flight.bytes) {
      fail(describe_flight(flight) + format(": %p <- %p, %u bytes: not multiples of 16", static_cast<void*>(flight.to),
                                            static_cast<const void*>(flight.from), flight.bytes));
    }
    if (!owns(*flight.target, flight.to + flight.bytes - 1) || !owns(*flight.target, flight.mbarrier)) {
      fail(describe_flight(flight) + ": target and mbarrier are not in the shared memory of one block");
    }
    if (!flight.from) return;  // a store is in the generic proxy
    for (const auto& [block, begin] :
         {std::pair<Block*, const char*>{&issuer, flight.from}, {flight.target, flight.to}}) {
      if (is_unfenced(*block, begin, flight.bytes)) {
        fail(describe_flight(flight) + ": shared memory that was written with no fence_proxy_async since");
      }
    }
  }

  static bool is_unfenced(const Block& block, const char* begin, size_t bytes) {
    for (const SharedArray& array : block.shared) {
      if (array.unfenced.empty() || !holds(array, begin)) continue;
      const size_t first = (begin - array.data) / weak::kGranule;
      for (size_t k = first; k < first + bytes / weak::kGranule; k++) {
        if (array.unfenced[k]) return true;
      }
    }
    return false;
  }

  void land(size_t which) {
    const Flight flight = flights_[which];
    flights_.erase(flights_.begin() + static_cast<std::ptrdiff_t>(which));
    MBarrier* mbarrier = find_mbarrier(*flight.target, flight.mbarrier);
    if (!mbarrier) fail(describe_flight(flight) + ": the mbarrier has not been initialised");
    weak::show(nullptr);
    std::memcpy(flight.to, flight.from ? flight.from : flight.data, flight.bytes);
    if (!expect_bytes(*mbarrier, -static_cast<int>(flight.bytes))) {
      fail(describe_flight(flight) + ": more bytes than an mbarrier counts come unexpected");
    }
    mbarrier->remote |= flight.from_another_block;
    release(&mbarrier->order[mbarrier->phase % 2]);
    complete_phase(*mbarrier);
    spins_ = 0;
  }

  void land_some(bool thread_spins) {
    if (flights_.empty()) return;
    if (grid_.schedule.order == Order::kLifo) {
      if (thread_spins) land(flights_.size() - 1);
    } else if (random_() % 4 == 0) {
      land(random_() % flights_.size());
    }
  }

  void check_nothing_flies_to(const Block& block) {
    for (const Flight& flight : flights_) {
      if (flight.target == &block || (flight.from && owns(block, flight.from))) {
        fail(describe_flight(flight) + format(" is on its way when block %u has exited", block.index.x));
      }
    }
  }

  // More of them where all wait for it.
  void let_stores_drift(bool thread_spins) {
    if (!weak::memory.one_in(thread_spins ? 8 : 256)) return;
    const Cluster& cluster = *grid_.clusters[weak::memory.random() % grid_.clusters.size()];
    weak::View& view = cluster.blocks[weak::memory.random() % cluster.blocks.size()]->view;
    if (!view.stores.empty()) spins_ = 0;
    for (size_t k = view.stores.size() / 64 + 1; k > 0; k--) weak::drift(view);
  }

  // ---- shared memory

  void allocate_shared(Block& block, int slot, const void* key, size_t bytes) {
    void* data = nullptr;
    if (posix_memalign(&data, 1024, std::max<size_t>(bytes, 1))) fail("out of memory");
    if (bytes) std::memset(data, 0xff, bytes);  // NaN in every float type, -1 in integers
    block.shared[slot] = {key, static_cast<char*>(data), bytes, {}};
    if (weak::kOn) block.shared[slot].unfenced.resize((bytes + weak::kGranule - 1) / weak::kGranule);
    size_t total = 0;
    for (int i = 0; i <= slot; i++) total += block.shared[i].bytes;
    if (total > kMaxSharedBytes) fail(format("%zu bytes of shared memory, the limit is %zu", total, kMaxSharedBytes));
    release(&block.shared_order);
  }

  static void free_shared(Block& block) {
    for (SharedArray& array : block.shared) {
      free(array.data);
      array = {};
    }
  }

  bool on_exit(Thread& thread) {
    Block& block = *thread.block;
    retire_fiber(thread.fiber);
    block.warps[thread.rank / kWarpSize]->exited |= 1u << thread.lane();
    block.alive--;
    if (block.barrier.arrived) {
      stuck(format("thread %d of block %u exits while others wait in __syncthreads:", thread.rank, block.index.x));
    }
    if (block.alive) return false;
    check_nothing_flies_to(block);
    check_no_store_waits_for(block);
    // Under the race checker to the end of the launch: memory that is used again would look like a race.
    if (!kRaceChecked) free_shared(block);
    return ++block.cluster->exited_blocks == block.cluster->blocks.size();
  }

  // Into the memory that it had. (It is the end of the launch that releases, not that of a block.)
  void check_no_store_waits_for(const Block& block) {
    for (const auto& other : block.cluster->blocks) {
      for (const auto& [address, stored] : other->view.stores) {
        if (owns(block, reinterpret_cast<const void*>(address))) {
          fail(
              format("a store of block %u is on its way to block %u, which has exited", other->index.x, block.index.x));
        }
      }
    }
  }

  // In a launch that failed, threads are left where they stand.
  static void abandon(Thread& thread) {
    if (!thread.fiber.mapping) return;
    tsan_join(thread.fiber.tsan);
    retire_fiber(thread.fiber);
  }

  // How many threads do what, and where: one line for each place.
  [[noreturn]] void stuck(const std::string& what) const {
    struct Place {
      int threads = 0;
      std::string first;
    };
    std::map<std::string, Place> places;
    for (const auto& cluster : grid_.clusters) {
      for (const auto& block : cluster->blocks) {
        for (const auto& thread : block->threads) {
          std::string text = describe(thread->state);
          if (*thread->at.file) text += format(" at %s:%d", thread->at.file, thread->at.line);
          Place& place = places[text];
          if (!place.threads++) place.first = format("block %u thread %d", block->index.x, thread->rank);
        }
      }
    }
    std::string message = what;
    for (const auto& [text, place] : places) {
      message += format("\n  %d thread(s), first %s: %s", place.threads, place.first.c_str(), text.c_str());
    }
    fail(message);
  }

  Grid grid_;
  std::vector<Cluster*> waiting_;  // not yet admitted, the next one last
  std::deque<Thread*> ready_;
  std::vector<Flight> flights_;
  std::minstd_rand random_;
  long spins_ = 0;  // since anybody last did anything else
};

// Runs `body` once for each thread of the launch, and returns when all have exited.
inline void launch(const Launch& launch, std::function<void()> body) {
  std::lock_guard<std::mutex> lock(launch_mutex);
  Scheduler(launch, std::move(body)).run();
}

}  // namespace emu
