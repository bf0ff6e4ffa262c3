// How a block's part of the next input reaches the blocks of its group: one struct an engine, ExchangeOf<M, engine>.
//
// Rows of the input are segments of `units` columns, padded_units apart: one of h~, four of da. A step writes its part
// to next(), says so by arrive(), does what nobody waits for, and comes back with wait(): then piece() has all of it.
// Stores between arrive() and wait() are waited for by no fence of this step.
//
// To add an engine: its struct here, with the same members, and its line in ExchangeOf.
#pragma once

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
};

// The block has all units: it reads its own input, and is done with one before it writes the next.
template <class M>
class BlockExchange {
 public:
  using scalar_t = typename M::scalar_t;
  static constexpr bool kInPieces = false;

  __device__ explicit BlockExchange(const ExchangeSetUp<M>& set_up) : in_(set_up.shared.in), ld_in_(set_up.s.ld_in) {}
  __device__ const scalar_t* piece(int) const { return in_; }
  __device__ scalar_t& next(int b, int column) { return in_[b * ld_in_ + column]; }
  __device__ void arrive() {}
  __device__ void wait() { __syncthreads(); }

 private:
  scalar_t* in_;
  int ld_in_;
};

// Each block writes its part to all others, through distributed shared memory, and meets them at the cluster's barrier.
// Two buffers in turn: the others may still read one input while the next is written.
template <class M>
class ClusterExchange {
 public:
  using scalar_t = typename M::scalar_t;
  static constexpr bool kInPieces = false;

  __device__ explicit ClusterExchange(const ExchangeSetUp<M>& set_up)
      : in_(set_up.shared.in), ld_in_(set_up.s.ld_in), buffer_(set_up.s.batch * set_up.s.ld_in) {
#if HAS_CLUSTERS
    const Sizes& s = set_up.s;
    const int vectors = s.units / kVector<scalar_t>, mine = set_up.segments * s.batch * vectors;
    // Where they are enough, threads share out the vectors and the blocks that get them.
    const int threads = blockDim.x;
    senders_ = max(1, threads / mine);
    const int sender = threadIdx.x / mine;
    const int rank = cg::this_cluster().block_rank();
    blocks_ = s.blocks;
    first_ = sender < senders_ ? sender + 1 : s.blocks;
    to_ = rank + first_;
#pragma unroll
    for (int k = 0; k < kVectors; ++k) {
      const int v = (senders_ == 1 ? threadIdx.x : threadIdx.x % mine) + k * threads;
      const int row = v / vectors, b = row % s.batch, segment = row / s.batch;
      const int column = segment * s.padded_units + set_up.unit_0 + v % vectors * kVector<scalar_t>;
      from_[k] = v < mine ? b * s.ld_in + column : -1;
    }
#endif
  }

  __device__ const scalar_t* piece(int) const { return in_ + turn_; }
  __device__ scalar_t& next(int b, int column) { return in_[(buffer_ - turn_) + b * ld_in_ + column]; }

  __device__ void arrive() {
    __syncthreads();  // the block's own part is written
    turn_ = buffer_ - turn_;
#if HAS_CLUSTERS
    const auto cluster = cg::this_cluster();
#pragma unroll
    for (int k = 0; k < kVectors; ++k) {
      if (from_[k] < 0) continue;
      scalar_t* const from = in_ + turn_ + from_[k];
      const Vector<scalar_t> v = *reinterpret_cast<const Vector<scalar_t>*>(from);
      for (int n = first_, to = to_; n < blocks_; n += senders_, to += senders_) {
        *reinterpret_cast<Vector<scalar_t>*>(cluster.map_shared_rank(from, to < blocks_ ? to : to - blocks_)) = v;
      }
    }
    cluster.barrier_arrive();
#endif
  }

  __device__ void wait() {
#if HAS_CLUSTERS
    cg::this_cluster().barrier_wait();
#endif
  }

 private:
  // The most that a thread has of the block's part, which is kCellsOfThread cells of each, four times in da.
  static constexpr int kVectors = (kCellsOfThread * kGates + kVector<scalar_t> - 1) / kVector<scalar_t>;

  scalar_t* in_;
  int ld_in_, buffer_, turn_ = 0;
  // This thread's vectors, and the blocks that it sends them to: every `senders`th from `first` on.
  int from_[kVectors], first_, to_, blocks_, senders_;
};

// Each block writes its part to memory, in truth to the second cache, adds one to the group's flag, and reads all parts
// when the flag says that they are there: whole, or in pieces, one while the one before is multiplied.
template <class M>
class GridExchange {
 public:
  using scalar_t = typename M::scalar_t;
  static constexpr bool kInPieces = true;

  __device__ explicit GridExchange(const ExchangeSetUp<M>& set_up)
      : s_(set_up.s),
        in_(set_up.shared.in),
        flag_(static_cast<unsigned*>(set_up.scratch) + set_up.group * kFlagStride),
        rows_(reinterpret_cast<scalar_t*>(static_cast<unsigned*>(set_up.scratch) + set_up.groups * kFlagStride) +
              set_up.group * s_.batch * s_.K),
        buffer_(set_up.groups * s_.batch * s_.K),
        vectors_(s_.piece / kVector<scalar_t>) {
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

  __device__ scalar_t& next(int b, int column) { return rows_[(turn_ ^ 1) * buffer_ + b * s_.K + column]; }

  __device__ void arrive() {
    __syncthreads();
    turn_ ^= 1;
    arrived_ += s_.blocks;
    if (threadIdx.x == 0) red_release_add(flag_, 1);
  }

  __device__ void wait() {
    if (threadIdx.x == 0) {
      // Each acquire empties the first cache, a relaxed load does not.
      while (ld_relaxed(flag_) < arrived_) spin_pause();
      ld_acquire(flag_);
    }
    __syncthreads();
    pull(0);
  }

 private:
  __device__ scalar_t* here(int k) const { return in_ + (k & 1) * s_.batch * s_.ld_in; }

  __device__ void pull(int k) {
    const int begin = k * s_.piece;
    const scalar_t* const from = rows_ + turn_ * buffer_ + begin;
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
  scalar_t* in_;
  unsigned* flag_;  // how many times a block of the group has arrived
  scalar_t* rows_;  // [2][all groups' samples][K], the group's own in the first
  int buffer_, vectors_, b_, column_, b_step_, column_step_;
  int turn_ = 0;
  unsigned arrived_ = 0;
};

template <class M, Engine engine>
using ExchangeOf =
    std::conditional_t<engine == Engine::block, BlockExchange<M>,
                       std::conditional_t<engine == Engine::cluster, ClusterExchange<M>, GridExchange<M>>>;

}  // namespace
}  // namespace rnndrop::cuda
