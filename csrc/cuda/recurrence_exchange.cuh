// How a block's part of the next input reaches the blocks of its group: one struct an engine, ExchangeOf<M, engine>.
//
// Rows of the input are segments of `units` columns, padded_units apart: one of h~, four of da. A step gives its part
// to send(), from registers; does what nobody waits for; and comes back with wait(): then piece() has all of it. Stores
// to memory between send() and wait() are waited for by no fence of this step.
//
// To add an engine: its struct here, with the same members, and its line in ExchangeOf.
#pragma once

#include "async_exchange.cuh"
#include "recurrence_block.cuh"

namespace rnndrop::cuda {
namespace {

template <class M>
struct ExchangeSetUp {
  const Sizes& s;
  const Shared<M>& shared;
  void* scratch;
  int64_t groups, group;
  int segments, unit_0;
  const Cells& cells;
};

// The elements of kVector neighbouring lanes side by side, which are neighbouring units of a sample: each of these
// lanes gets them. The whole warp takes part.
template <class T>
__device__ __forceinline__ Bits128 vector_of_lanes(T element) {
  const unsigned lane = threadIdx.x;
  uint64_t eight_bytes = 0;
  memcpy(&eight_bytes, &element, sizeof element);
  if constexpr (sizeof element <= 4) {
    auto four_bytes = static_cast<uint32_t>(eight_bytes);
    if constexpr (sizeof element == 2) {
      const uint32_t other = __shfl_xor_sync(kAllLanes, four_bytes, 1);
      four_bytes = lane & 1 ? other | four_bytes << 16 : four_bytes | other << 16;
    }
    constexpr unsigned kApart = kVector<T> / 4;
    const uint32_t other = __shfl_xor_sync(kAllLanes, four_bytes, kApart);
    const uint32_t low = lane & kApart ? other : four_bytes, high = lane & kApart ? four_bytes : other;
    eight_bytes = low | static_cast<uint64_t>(high) << 32;
  }
  constexpr unsigned kApart = kVector<T> / 2;
  const uint64_t other = __shfl_xor_sync(kAllLanes, eight_bytes, kApart);
  return lane & kApart ? Bits128{other, eight_bytes} : Bits128{eight_bytes, other};
}

// A thread's part to where sample 0 and unit 0 of the block are, whose samples lie `ld` apart.
template <int kSegments, class scalar_t>
__device__ __forceinline__ void store_part(scalar_t* to, int ld, const scalar_t (&part)[kCellsOfThread][kSegments],
                                           const Sizes& s, const Cells& cells) {
#pragma unroll
  for (int k = 0; k < kCellsOfThread; ++k) {
    if (!cells.there[k]) continue;
    scalar_t* const row = to + cells.b[k] * ld + cells.u[k];
#pragma unroll
    for (int segment = 0; segment < kSegments; ++segment) row[segment * s.padded_units] = part[k][segment];
  }
}

// The block has all units: it reads its own input, and is done with one before it writes the next.
template <class M>
class BlockExchange {
 public:
  using scalar_t = typename M::scalar_t;
  static constexpr bool kInPieces = false;

  __device__ explicit BlockExchange(const ExchangeSetUp<M>& set_up)
      : s_(set_up.s), cells_(set_up.cells), in_(set_up.shared.in) {}
  __device__ const scalar_t* piece(int) const { return in_; }

  template <int kSegments>
  __device__ void send(const scalar_t (&part)[kCellsOfThread][kSegments]) {
    store_part(in_, s_.ld_in, part, s_, cells_);
  }
  __device__ void wait() { __syncthreads(); }

 private:
  const Sizes& s_;
  const Cells& cells_;
  scalar_t* in_;
};

// Each block stores its part into the shared memory of all, asynchronously, and the bytes count on an mbarrier that
// each of them has for each of its two buffers.
template <class M>
class ClusterExchange {
 public:
  using scalar_t = typename M::scalar_t;
  static constexpr bool kInPieces = false;

  __device__ explicit ClusterExchange(const ExchangeSetUp<M>& set_up)
      : s_(set_up.s),
        cells_(set_up.cells),
        in_(set_up.shared.in),
        full_(set_up.shared.full),
        unit_0_(set_up.unit_0),
        buffer_(s_.batch * s_.ld_in) {
#if HAS_CLUSTERS
    if (threadIdx.x < 2) mbarrier_init(full_ + threadIdx.x, 1);
#endif
  }

  __device__ const scalar_t* piece(int) const { return in_ + turn_ * buffer_; }

  template <int kSegments>
  __device__ void send(const scalar_t (&part)[kCellsOfThread][kSegments]) {
    turn_ ^= 1;
    if (turn_) parity_ ^= 1;
#if HAS_CLUSTERS
    // The bytes may come before they are expected, but not all of the phase without this arrival.
    if (threadIdx.x == 0) mbarrier_arrive_expect_tx(full_ + turn_, s_.batch * s_.K * sizeof(scalar_t));
#pragma unroll
    for (int k = 0; k < kCellsOfThread; ++k) {
      if (!__any_sync(kAllLanes, cells_.there[k])) continue;
      Bits128 vectors[kSegments];
#pragma unroll
      for (int segment = 0; segment < kSegments; ++segment) vectors[segment] = vector_of_lanes(part[k][segment]);
      if (!cells_.there[k]) continue;
      // The lanes that have the vector share out the blocks that get it.
      const int lane = cells_.u[k] % kVector<scalar_t>;
      scalar_t* const to = in_ + turn_ * buffer_ + cells_.b[k] * s_.ld_in + unit_0_ + cells_.u[k] - lane;
#pragma unroll 1
      for (int rank = lane; rank < s_.blocks; rank += kVector<scalar_t>) {
        const ClusterAddress there = map_to_rank(to, rank), full = map_to_rank(full_ + turn_, rank);
#pragma unroll
        for (int segment = 0; segment < kSegments; ++segment) {
          st_async(there + segment * s_.padded_units * static_cast<int>(sizeof(scalar_t)), vectors[segment], full);
        }
      }
    }
#endif
  }

  __device__ void wait() {
#if HAS_CLUSTERS
    mbarrier_wait_cluster(full_ + turn_, parity_);
#endif
  }

 private:
  const Sizes& s_;
  const Cells& cells_;
  scalar_t* in_;
  uint64_t* full_;
  int unit_0_, buffer_, turn_ = 0;
  unsigned parity_ = 1;  // of the buffer's phase: 0 in the first step of either, then 1, in turn
};

// Through the second cache: each block writes its part to memory, and adds one to the group's flag, which says when all
// parts are there.
template <class M>
class HandOver {
 public:
  using scalar_t = typename M::scalar_t;

  __device__ explicit HandOver(const ExchangeSetUp<M>& set_up)
      : s_(set_up.s),
        cells_(set_up.cells),
        unit_0_(set_up.unit_0),
        flag_(static_cast<unsigned*>(set_up.scratch) + set_up.group * kFlagStride),
        rows_(reinterpret_cast<scalar_t*>(static_cast<unsigned*>(set_up.scratch) + set_up.groups * kFlagStride) +
              set_up.group * s_.batch * s_.K),
        buffer_(set_up.groups * s_.batch * s_.K) {}

  template <int kSegments>
  __device__ void send(const scalar_t (&part)[kCellsOfThread][kSegments]) {
    turn_ ^= 1;
    store_part(rows_ + turn_ * buffer_ + unit_0_, s_.K, part, s_, cells_);
    __syncthreads();
    arrived_ += s_.blocks;
    if (is_messenger()) red_release_add(flag_, 1);
  }

  // Who says that the block has arrived and polls: lane 0 of the last warp, which in most plans has no cells, so that
  // what a step stores and fetches for those does not hold it up.
  __device__ bool is_messenger() const { return threadIdx.x == blockDim.x - 32; }

  // For the messenger: until all blocks of the group have arrived.
  __device__ void wait_for_arrivals() const {
    // Not relaxed ones and an acquire behind the last: that one would wait for all that the thread has asked for.
    while (is_early(ld_acquire(flag_))) spin_pause();
  }

  // What all blocks have sent: [batch, K].
  __device__ const scalar_t* rows() const { return rows_ + turn_ * buffer_; }

 private:
  // Of the flag, whose count wraps where a sequence has millions of steps.
  __device__ bool is_early(unsigned arrivals) const { return static_cast<int>(arrivals - arrived_) < 0; }

  const Sizes& s_;
  const Cells& cells_;
  int unit_0_;
  unsigned* flag_;  // how many times a block of the group has arrived
  scalar_t* rows_;  // [2][all groups' samples][K], the group's own in the first
  int buffer_, turn_ = 0;
  unsigned arrived_ = 0;
};

// All parts are read through the threads: whole, or in pieces, one while the one before is multiplied.
template <class M>
class GridExchange {
 public:
  using scalar_t = typename M::scalar_t;
  static constexpr bool kInPieces = true;

  __device__ explicit GridExchange(const ExchangeSetUp<M>& set_up)
      : s_(set_up.s), hand_over_(set_up), in_(set_up.shared.in), vectors_(s_.piece / kVector<scalar_t>) {
    b_ = threadIdx.x / vectors_;
    column_ = threadIdx.x % vectors_;
    b_step_ = blockDim.x / vectors_;
    column_step_ = blockDim.x % vectors_;
  }

  // Pieces are asked for in order, each when nobody needs the last but one any more.
  __device__ const scalar_t* piece(int k) {
    cp_async_wait<0>();
    __syncthreads();  // now the piece before has been multiplied, too: the next may take its place
    if (k + 1 < s_.pieces) pull(k + 1);
    return here(k);
  }

  template <int kSegments>
  __device__ void send(const scalar_t (&part)[kCellsOfThread][kSegments]) {
    hand_over_.send(part);
  }

  __device__ void wait() {
    if (hand_over_.is_messenger()) hand_over_.wait_for_arrivals();
    __syncthreads();
    pull(0);
  }

 private:
  __device__ scalar_t* here(int k) const { return in_ + (k & 1) * s_.batch * s_.ld_in; }

  __device__ void pull(int k) {
    const int begin = k * s_.piece;
    const scalar_t* const from = hand_over_.rows() + begin;
    scalar_t* const to = here(k);
#pragma unroll 1
    for (int b = b_, v = column_; b < s_.batch; b += b_step_) {
      const int column = v * kVector<scalar_t>;
      cp_async16(to + b * s_.ld_in + column, from + b * s_.K + column, begin + column < s_.K);
      v += column_step_;
      if (v >= vectors_) v -= vectors_, ++b;
    }
    cp_async_commit();
  }

  const Sizes& s_;
  HandOver<M> hand_over_;
  scalar_t* in_;
  int vectors_, b_, column_, b_step_, column_step_;
};

// Each block hands over as in a grid, and reads all parts in bulk, a sample at a time, which an mbarrier counts; or the
// blocks of a cluster share the samples out, and each copies its own into the shared memory of all.
template <class M>
class MulticastExchange {
 public:
  using scalar_t = typename M::scalar_t;
  static constexpr bool kInPieces = false;

  __device__ explicit MulticastExchange(const ExchangeSetUp<M>& set_up) : s_(set_up.s), hand_over_(set_up) {
#if HAS_CLUSTERS
    in_ = set_up.shared.in;
    full_ = set_up.shared.full;
    if (threadIdx.x == 0) mbarrier_init(full_, 1);
    fence_proxy_async();  // whatever this thread has written where copies come is behind them
#endif
  }

  // One buffer will do: who copies the next input has seen all blocks arrive, which is after they multiplied this one.
  __device__ const scalar_t* piece(int) const { return in_; }

  template <int kSegments>
  __device__ void send(const scalar_t (&part)[kCellsOfThread][kSegments]) {
    hand_over_.send(part);
  }

  __device__ void wait() {
#if HAS_CLUSTERS
    if (hand_over_.is_messenger()) {
      // The other blocks' copies may come before they are expected.
      mbarrier_arrive_expect_tx(full_, s_.batch * s_.K * sizeof(scalar_t));
      hand_over_.wait_for_arrivals();
      fence_proxy_async_global();
      copy_in();
    }
    mbarrier_wait_cluster(full_, parity_);
    parity_ ^= 1;
#endif
  }

 private:
#if HAS_CLUSTERS
  __device__ void copy_in() {
    const scalar_t* const from = hand_over_.rows();
    const unsigned bytes = s_.K * sizeof(scalar_t);
#pragma unroll 1
    for (int b = blockIdx.x & (s_.share - 1); b < s_.batch; b += s_.share) {
      scalar_t* const to = in_ + b * s_.ld_in;
      if (s_.share == 1) {
        bulk_copy(to, from + b * s_.K, bytes, full_);
      } else {
        bulk_copy_multicast(to, from + b * s_.K, bytes, full_, (1 << s_.share) - 1);
      }
    }
  }
#endif

  const Sizes& s_;
  HandOver<M> hand_over_;
  scalar_t* in_;
  uint64_t* full_;
  unsigned parity_ = 0;
};

template <class M, Engine engine>
using ExchangeOf = std::conditional_t<
    engine == Engine::block, BlockExchange<M>,
    std::conditional_t<engine == Engine::cluster, ClusterExchange<M>,
                       std::conditional_t<engine == Engine::grid, GridExchange<M>, MulticastExchange<M>>>>;

}  // namespace
}  // namespace rnndrop::cuda
