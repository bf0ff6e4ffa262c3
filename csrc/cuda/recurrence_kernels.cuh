// The persistent kernels: a layer's whole recurrence in one launch, W_hh on chip from the first step to the last.
//
// A group of blocks shares out the units; each block keeps its units' rows of W_hh (their columns, in the backward) in
// shared memory, and c, h and their gradients in registers. recurrence_plan.h says how units and batch are split. A
// step:
//
//   forward    a = W_hh h~ (a product of the block's rows with all of h~)   cell   h~ to the group's blocks
//   backward   cell   da to the group's blocks   dh~ = da W_hh (its columns with all of da)
//
// Forward and backward are the same product, [rows, K] by [K, batch], cut over warps into tiles and splits of K; the
// splits are added in a fixed order, and nothing else is ever summed by more than one thread: same bits on every run.
// Where [K, batch] has no room in shared memory, it comes in pieces of K, each while the one before is multiplied.
// What the pointwise pass of the next step reads from memory is fetched before the wait for the other blocks.
//
// Cost of a step, a block: rows * K * sizeof(scalar) bytes of shared memory read for each batch tile, 128 bytes a
// cycle; what is handed over, batch * K * sizeof(scalar) bytes to every block; and the wait: none (block), a cluster
// barrier (cluster), a flag through the second cache (grid). Floor: the latency of that wait, see docs/internals.md.
#pragma once

#include "lstm_cell.h"
#include "numbers.cuh"
#include "recurrence.h"

namespace rnndrop::cuda {
namespace {

// ---------------------------------------------------------------- products: what a warp does with a tile

// One tile [kRows, kBatch] of W in^T over columns [begin, end) in units of kK, to partial[sample][row]; added to what
// is there already where `more`.
template <class T>
struct PlainTile {
  using scalar_t = T;
  using acc_t = T;
  static constexpr int kRows = 32, kBatch = 4, kK = 16 / sizeof(T);

  __device__ static T operand(T v) { return v; }

  // A lane has a row of W and all of the tile's samples.
  __device__ static void multiply(const T* W, int ld, const T* in, int ld_in, int begin, int end, int rows_left,
                                  T* partial, int ld_partial, bool more) {
    const int lane = threadIdx.x % 32;
    if (lane >= rows_left) return;
    T sum[kBatch] = {};
    for (int k = begin * kK; k < end * kK; k += kK) {
#pragma unroll
      for (int e = 0; e < kK; ++e) {
        const T w = W[lane * ld + k + e];
#pragma unroll
        for (int b = 0; b < kBatch; ++b) sum[b] += w * in[b * ld_in + k + e];
      }
    }
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      T& out = partial[b * ld_partial + lane];
      out = more ? out + sum[b] : sum[b];
    }
  }
};

// Rows of W are the m of an mma, samples its n. Two sums in turn, so that one need not wait for the other.
template <class Fragments>
__device__ __forceinline__ void multiply_on_tensor_cores(int begin, int end, float* partial, int ld_partial, bool more,
                                                         const Fragments& multiply_add) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  float sums[2][4] = {};
  int k = begin;
  for (; k + 1 < end; k += 2) {
    multiply_add(sums[0], k);
    multiply_add(sums[1], k + 1);
  }
  if (k < end) multiply_add(sums[0], k);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float& out = partial[(2 * t + i % 2) * ld_partial + g + 8 * (i / 2)];
    const float sum = sums[0][i] + sums[1][i];
    out = more ? out + sum : sum;
  }
}

struct Tf32Tile {
  using scalar_t = float;
  using acc_t = float;
  static constexpr int kRows = 16, kBatch = 8, kK = 8;

  // Rounded once, when it goes to shared memory, and not each time it is multiplied.
  __device__ static float operand(float v) { return __uint_as_float(to_tf32(v)); }

  __device__ static void multiply(const float* W, int ld, const float* in, int ld_in, int begin, int end,
                                  int /*rows_left*/, float* partial, int ld_partial, bool more) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    multiply_on_tensor_cores(begin, end, partial, ld_partial, more, [&](float (&sum)[4], int k) {
      uint32_t a[4], b[2];
#pragma unroll
      for (int i = 0; i < 4; ++i) a[i] = __float_as_uint(W[(g + 8 * (i % 2)) * ld + k * kK + t + 4 * (i / 2)]);
#pragma unroll
      for (int i = 0; i < 2; ++i) b[i] = __float_as_uint(in[g * ld_in + k * kK + t + 4 * i]);
      mma_m16n8k8_tf32(sum, a, b);
    });
  }
};

__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], __nv_bfloat16) {
  mma_m16n8k16_bf16(d, a, b);
}
__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], __half) {
  mma_m16n8k16_f16(d, a, b);
}

template <class T>
struct HalfTile {
  using scalar_t = T;
  using acc_t = float;
  static constexpr int kRows = 16, kBatch = 8, kK = 16;

  __device__ static T operand(float v) { return rounded<T>(v); }

  __device__ static void multiply(const T* W, int ld, const T* in, int ld_in, int begin, int end, int /*rows_left*/,
                                  float* partial, int ld_partial, bool more) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const T* my_row = W + lane % 16 * ld + lane / 16 * 8;
    const T* my_sample = in + g * ld_in + 2 * t;
    multiply_on_tensor_cores(begin, end, partial, ld_partial, more, [&](float (&sum)[4], int k) {
      uint32_t a[4], b[2];
      ldmatrix_x4(a, my_row + k * kK);
#pragma unroll
      for (int i = 0; i < 2; ++i) b[i] = *reinterpret_cast<const uint32_t*>(my_sample + k * kK + 8 * i);
      mma(sum, a, b, T());
    });
  }
};

// ---------------------------------------------------------------- a block

// Sizes as a block computes with them: 32 bits are enough for what lies in shared memory.
struct Sizes {
  int blocks, units, batch, rows, rows_padded, K, ld, piece, pieces, ld_in, buffers, splits, ld_partial, padded_units;
  __device__ Sizes(const Tiling& t, Engine engine)
      : blocks(t.blocks),
        units(t.units),
        batch(t.batch),
        rows(t.rows),
        rows_padded(t.rows_padded),
        K(t.K),
        ld(t.ld),
        piece(t.piece),
        pieces(t.pieces()),
        ld_in(t.ld_in),
        buffers(t.buffers(engine)),
        splits(t.splits),
        ld_partial(t.ld_partial()),
        padded_units(t.padded_units()) {}
};

// What a block keeps in shared memory.
template <class M, Engine engine>
struct Shared {
  using scalar_t = typename M::scalar_t;
  using acc_t = typename M::acc_t;

  scalar_t* W;     // [rows_padded, ld]
  scalar_t* in;    // [buffers, batch, ld_in]: h~ or da of all units, or a piece of it
  acc_t* partial;  // [splits, batch, ld_partial]
  acc_t* bias;     // [4, units]

  __device__ Shared(unsigned char* bytes, const Sizes& s)
      : W(reinterpret_cast<scalar_t*>(bytes)),
        in(W + s.rows_padded * s.ld),
        partial(reinterpret_cast<acc_t*>(in + s.buffers * s.batch * s.ld_in)),
        bias(partial + s.splits * s.batch * s.ld_partial) {}
};

// Cells (sample, unit) of a block's tile, kCellsOfThread of each thread; neighbouring threads have neighbouring units.
struct Cells {
  int b[kCellsOfThread], u[kCellsOfThread];  // within the tile
  bool there[kCellsOfThread];                // in the tile
  bool inside[kCellsOfThread];               // and not beyond the batch or the last unit
  int64_t at[kCellsOfThread];                // in [B,H]

  __device__ Cells(const Sizes& s, int64_t b_0, int64_t unit_0, int64_t B, int64_t H) {
#pragma unroll
    for (int k = 0; k < kCellsOfThread; ++k) {
      const int cell = threadIdx.x + k * blockDim.x;
      b[k] = cell / s.units;
      u[k] = cell % s.units;
      there[k] = b[k] < s.batch;
      inside[k] = there[k] && b_0 + b[k] < B && unit_0 + u[k] < H;
      at[k] = (b_0 + b[k]) * H + unit_0 + u[k];
    }
  }
  // Where gate i of cell k is in [B,4H].
  __device__ int64_t row(int k, int64_t b_0, int64_t H) const { return at[k] + (b_0 + b[k]) * (kGates - 1) * H; }
};

template <class acc_t>
__device__ __forceinline__ acc_t sum_of_splits(const Sizes& s, const acc_t* partial, int b, int row) {
  acc_t sum = 0;
#pragma unroll 1
  for (int split = 0; split < s.splits; ++split) sum += partial[(split * s.batch + b) * s.ld_partial + row];
  return sum;
}

// How a block's part of the next input reaches the group. Rows of it are segments of `units` columns, padded_units
// apart: one of h~, four of da.
template <class M, Engine engine>
class Exchange {
 public:
  using scalar_t = typename M::scalar_t;

  __device__ Exchange(const Sizes& s, const Shared<M, engine>& shared, void* scratch, int64_t groups, int64_t group,
                      int segments, int unit_0)
      : s_(s),
        in_(shared.in),
        flag_(static_cast<unsigned*>(scratch) + group * kFlagStride),
        rows_(reinterpret_cast<scalar_t*>(static_cast<unsigned*>(scratch) + groups * kFlagStride) +
              group * s.batch * s.K),
        buffer_stride_(groups * s.batch * s.K),
        segments_(segments),
        unit_0_(unit_0) {}

  // A piece of the input, visible to all of the block's threads. Pieces are asked for in order, each when nobody needs
  // the last but one any more.
  __device__ const scalar_t* piece(int k) {
    if (engine == Engine::block) return in_;
    if (engine == Engine::cluster) return buffer(turn_);
    cp_async_wait<0>();
    __syncthreads();  // now the piece before has been multiplied, too: the next may take its place
    if (k + 1 < s_.pieces) pull(k + 1);
    return buffer(k % 2);
  }

  // Where sample b's entry of this column of the next input goes. While it is written the others may still read the
  // input before: it is another buffer, but for the block, which reads its own alone and is done with it.
  __device__ scalar_t& next(int b, int column) {
    if (engine == Engine::grid) return rows_[(turn_ ^ 1) * buffer_stride_ + b * s_.K + column];
    return buffer(engine == Engine::cluster ? turn_ ^ 1 : 0)[b * s_.ld_in + column];
  }

  // All of the next input is written, or on its way: a product may follow.
  __device__ void hand_over() {
    __syncthreads();
    if (engine == Engine::block) return;
    turn_ ^= 1;
    if (engine == Engine::cluster) push();
    if (engine == Engine::grid) {
      meet();
      pull(0);
    }
  }

 private:
  static constexpr int kVector = 16 / sizeof(scalar_t);

  __device__ scalar_t* buffer(int which) const { return in_ + which * s_.batch * s_.ld_in; }

  __device__ void push() {
#if HAS_CLUSTERS
    const auto cluster = cg::this_cluster();
    const int rank = cluster.block_rank(), pieces = s_.units / kVector;
    const int mine = segments_ * s_.batch * pieces;
    for (int v = threadIdx.x; v < mine * (s_.blocks - 1); v += blockDim.x) {
      const int to = (rank + 1 + v / mine) % s_.blocks, piece = v % mine;
      const int b = piece / pieces % s_.batch, segment = piece / pieces / s_.batch;
      scalar_t* const from =
          buffer(turn_) + b * s_.ld_in + segment * s_.padded_units + unit_0_ + piece % pieces * kVector;
      *reinterpret_cast<uint4*>(cluster.map_shared_rank(from, to)) = *reinterpret_cast<const uint4*>(from);
    }
    cluster.sync();
#endif
  }

  __device__ void meet() {
    if (threadIdx.x == 0) {
      arrived_ += s_.blocks;
      red_release_add(flag_, 1);
      while (ld_acquire(flag_) < arrived_) spin_pause();
    }
    __syncthreads();
  }

  __device__ void pull(int k) {
    const int begin = k * s_.piece, vectors = s_.piece / kVector;
    const scalar_t* const from = rows_ + turn_ * buffer_stride_ + begin;
    for (int v = threadIdx.x; v < s_.batch * vectors; v += blockDim.x) {
      const int b = v / vectors, column = v % vectors * kVector;
      cp_async16(buffer(k % 2) + b * s_.ld_in + column, from + b * s_.K + column, begin + column < s_.K);
    }
    cp_async_commit();
  }

  const Sizes& s_;
  scalar_t* in_;
  unsigned* flag_;  // how many times a block of the group has arrived
  scalar_t* rows_;  // [2][all groups' samples][K], the group's own in the first
  int buffer_stride_, segments_, unit_0_;
  int turn_ = 0;
  unsigned arrived_ = 0;
};

// in[rows] W^T of the block: partial[split][sample][row]
template <class M, Engine engine>
__device__ void product(const Sizes& s, const Shared<M, engine>& shared, Exchange<M, engine>& exchange) {
  const int tiles_rows = (s.rows + M::kRows - 1) / M::kRows, tiles_batch = s.batch / M::kBatch;
  const int pieces = engine == Engine::grid ? s.pieces : 1;
  for (int piece = 0; piece < pieces; ++piece) {
    const typename M::scalar_t* const in = exchange.piece(piece);
    const int first = piece * s.piece, columns = engine == Engine::grid ? min(s.piece, s.K - first) : s.K;
    const int depth = (columns + M::kK - 1) / M::kK, of_split = (depth + s.splits - 1) / s.splits;
    for (int task = threadIdx.x / 32; task < tiles_rows * tiles_batch * s.splits; task += blockDim.x / 32) {
      const int split = task % s.splits, tile = task / s.splits;
      const int row = tile % tiles_rows * M::kRows, sample = tile / tiles_rows * M::kBatch;
      M::multiply(shared.W + row * s.ld + first, s.ld, in + sample * s.ld_in, s.ld_in, split * of_split,
                  min(depth, (split + 1) * of_split), s.rows - row,
                  shared.partial + (split * s.batch + sample) * s.ld_partial + row, s.ld_partial, piece > 0);
    }
  }
}

// All of shared memory but the weights starts as zeros: columns beyond the last unit are multiplied too.
template <class M, Engine engine>
__device__ void clear_inputs(const Sizes& s, const Shared<M, engine>& shared) {
  for (int k = threadIdx.x; k < s.buffers * s.batch * s.ld_in; k += blockDim.x) {
    shared.in[k] = rounded<typename M::scalar_t>(typename M::acc_t(0));
  }
}

// Nobody writes to another block's shared memory before that block has set it up.
template <Engine engine>
__device__ void sync_group_after_set_up() {
  __syncthreads();
#if HAS_CLUSTERS
  if (engine == Engine::cluster) cg::this_cluster().sync();
#endif
}

// The steps that some sample of the tile still runs are those with t < longest.
__device__ inline int64_t longest_of_tile(const Recurrence& r, int64_t b_0, int batch) {
  if (!r.lengths) return r.order.T;
  int64_t longest = 0;
  for (int64_t b = b_0; b < min(r.B, b_0 + batch); ++b) longest = max(longest, min(r.order.T, r.lengths[b]));
  return longest;
}

template <class scalar_t, class acc_t>
__device__ __forceinline__ acc_t noise_at(const RowNoise& noise, int64_t b, int64_t j, acc_t absent) {
  return noise.data ? acc_t(to_acc(static_cast<const scalar_t*>(noise.data)[b * noise.stride + j])) : absent;
}

// All but m_g, which is fetched ahead.
template <class scalar_t, bool general, class acc_t>
__device__ __forceinline__ CellNoise<acc_t> cell_noise(const LayerNoise& noise, int64_t t, acc_t m_g, int64_t b,
                                                       int64_t j) {
  CellNoise<acc_t> cell;
  cell.m_g = m_g;
  if (!general) return cell;
  cell.m_c = noise_at<scalar_t>(noise.mask_c.at_step(t), b, j, acc_t(1));
  cell.z_c = noise_at<scalar_t>(noise.zone_c.at_step(t), b, j, acc_t(0));
  cell.z_h = noise_at<scalar_t>(noise.zone_h.at_step(t), b, j, acc_t(0));
  return cell;
}

// ---------------------------------------------------------------- forward

template <class M, Engine engine, bool general>
__global__ void __launch_bounds__(max_threads(sizeof(typename M::scalar_t)), 1)
    recurrence_forward_kernel(const RecurrenceForward r, const Tiling tiling, void* scratch) {
  using scalar_t = typename M::scalar_t;
  using acc_t = typename M::acc_t;
  DYN_SHARED(unsigned char, bytes);
  const Sizes s(tiling, engine);
  const Shared<M, engine> shared(bytes, s);
  const int64_t B = r.B, H = r.H, state = B * H;
  const int64_t group = blockIdx.x / s.blocks, b_0 = group * s.batch;
  const int unit_0 = blockIdx.x % s.blocks * s.units;
  const scalar_t* W_hh = offset<scalar_t>(r.W_hh, 0);

  // Row n: gate n / units of unit unit_0 + n % units.
  for (int n = threadIdx.x / 32; n < s.rows_padded; n += blockDim.x / 32) {
    const int64_t gate = n / s.units, j = unit_0 + n % s.units;
    for (int k = threadIdx.x % 32; k < s.ld; k += 32) {
      const bool there = n < s.rows && j < H && k < H;
      shared.W[n * s.ld + k] = M::operand(there ? acc_t(to_acc(W_hh[(gate * H + j) * H + k])) : acc_t(0));
    }
  }
  for (int n = threadIdx.x; n < s.rows; n += blockDim.x) {
    const int64_t j = unit_0 + n % s.units, column = n / s.units * H + j;
    acc_t bias = 0;
    if (j < H && r.b_ih) bias += to_acc(offset<scalar_t>(r.b_ih, column)[0]);
    if (j < H && r.b_hh) bias += to_acc(offset<scalar_t>(r.b_hh, column)[0]);
    shared.bias[n] = bias;
  }
  clear_inputs(s, shared);

  const scalar_t* h_begin = offset<scalar_t>(r.h_begin, 0);
  const scalar_t* mask_h_rows = offset<scalar_t>(r.mask_h, 0);
  const TimeOrder order = r.order;
  const Cells cells(s, b_0, unit_0, B, H);
  const int longest = general ? longest_of_tile(r, b_0, s.batch) : order.T;
  Exchange<M, engine> exchange(s, shared, scratch, tiling.groups, group, 1, unit_0);
  int64_t t = r.steps.first(order);
  acc_t c[kCellsOfThread], h[kCellsOfThread], m_h[kCellsOfThread];
#pragma unroll
  for (int k = 0; k < kCellsOfThread; ++k) {
    if (!cells.inside[k]) continue;
    c[k] = offset<acc_t>(r.c, r.c_slot(order.slot_before(t)) * state)[cells.at[k]];
    h[k] = to_acc(h_begin[cells.at[k]]);
    m_h[k] = mask_h_rows ? acc_t(to_acc(mask_h_rows[cells.at[k]])) : acc_t(1);
  }
  sync_group_after_set_up<engine>();

  scalar_t from_x[kCellsOfThread][kGates];
  acc_t m_g[kCellsOfThread];
  const auto fetch = [&](int64_t step) {
    const scalar_t* x = offset<scalar_t>(r.from_x, step * kGates * state);
    const RowNoise mask_g = r.noise.mask_g.at_step(step);
#pragma unroll
    for (int k = 0; k < kCellsOfThread; ++k) {
      if (!cells.inside[k]) continue;
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate) from_x[k][gate] = x[cells.row(k, b_0, H) + gate * H];
      m_g[k] = noise_at<scalar_t>(mask_g, b_0 + cells.b[k], unit_0 + cells.u[k], acc_t(1));
    }
  };
  fetch(t);
  // The first h~ goes the way of all others, to whichever step is the first to run.
  if (!general || r.steps.begin < longest) {
#pragma unroll
    for (int k = 0; k < kCellsOfThread; ++k) {
      if (!cells.there[k]) continue;
      const acc_t h_tilde = cells.inside[k] ? m_h[k] * h[k] : acc_t(0);
      exchange.next(cells.b[k], unit_0 + cells.u[k]) = M::operand(h_tilde);
    }
    exchange.hand_over();
  }

  for (int left = r.steps.n; left > 0; --left) {
    const bool last = left == 1, running = !general || t < longest;
    const int64_t t_next = order.next(t);
    // Past the ends h does not change, so that there is nothing to hand over.
    const bool hands_over = !last && running && (!general || t_next < longest);
    if (running) product(s, shared, exchange);
    __syncthreads();  // the product is complete, and the input may be overwritten

    scalar_t* gates_t = offset<scalar_t>(r.gates, t * kGates * state);
    scalar_t* y_t = offset<scalar_t>(r.y, t * state);
    acc_t* c_t = r.gates || last ? offset<acc_t>(r.c, r.c_slot(order.slot(t)) * state) : nullptr;
#pragma unroll
    for (int k = 0; k < kCellsOfThread; ++k) {
      if (!cells.there[k]) continue;
      const int b = cells.b[k], u = cells.u[k];
      acc_t h_tilde = 0;
      if (cells.inside[k]) {
        CellForward<acc_t> cell{0, 0, 0, 0, c[k], 0};
        if (!general || !r.lengths || t < r.lengths[b_0 + b]) {
          acc_t pre[kGates];
#pragma unroll
          for (int gate = 0; gate < kGates; ++gate) {
            const int row = gate * s.units + u;
            pre[gate] = acc_t(to_acc(from_x[k][gate])) + sum_of_splits(s, shared.partial, b, row) + shared.bias[row];
          }
          const CellNoise<acc_t> cell_noise_k = cell_noise<scalar_t, general>(r.noise, t, m_g[k], b_0 + b, unit_0 + u);
          cell = cell_forward<general>(pre[kInput], pre[kForget], pre[kCandidate], pre[kOutput], cell_noise_k, c[k],
                                       general ? h[k] : acc_t(0));
          c[k] = cell.c;
          h[k] = to_acc(rounded<scalar_t>(cell.h));
        }
        if (gates_t) {
          scalar_t* gates = gates_t + cells.row(k, b_0, H);
          from_acc(gates[kInput * H], cell.i);
          from_acc(gates[kForget * H], cell.f);
          from_acc(gates[kCandidate * H], cell.g);
          from_acc(gates[kOutput * H], cell.o);
        }
        from_acc(y_t[cells.at[k]], cell.h);
        if (c_t) c_t[cells.at[k]] = c[k];
        if (last && r.h_n) from_acc(offset<scalar_t>(r.h_n, 0)[cells.at[k]], h[k]);
        h_tilde = m_h[k] * h[k];
      }
      if (hands_over) exchange.next(b, unit_0 + u) = M::operand(h_tilde);
    }
    if (!last) fetch(t_next);
    if (hands_over) exchange.hand_over();
    t = t_next;
  }
}

// ---------------------------------------------------------------- backward

template <class M, Engine engine, bool general>
__global__ void __launch_bounds__(max_threads(sizeof(typename M::scalar_t)), 1)
    recurrence_backward_kernel(const RecurrenceBackward r, const Tiling tiling, void* scratch) {
  using scalar_t = typename M::scalar_t;
  using acc_t = typename M::acc_t;
  DYN_SHARED(unsigned char, bytes);
  const Sizes s(tiling, engine);
  const Shared<M, engine> shared(bytes, s);
  const int64_t B = r.B, H = r.H, state = B * H;
  const int64_t group = blockIdx.x / s.blocks, b_0 = group * s.batch;
  const int unit_0 = blockIdx.x % s.blocks * s.units;
  const scalar_t* W_hh = offset<scalar_t>(r.W_hh, 0);

  // Row u is column unit_0 + u of W_hh. Neighbouring threads read neighbours in it.
  for (int n = threadIdx.x; n < s.rows_padded * s.ld; n += blockDim.x) {
    const int u = n % s.rows_padded, k = n / s.rows_padded, gate = k / s.padded_units, j_in = k % s.padded_units;
    const bool there = u < s.rows && unit_0 + u < H && gate < kGates && j_in < H;
    const acc_t w = there ? acc_t(to_acc(W_hh[(gate * H + j_in) * H + unit_0 + u])) : acc_t(0);
    shared.W[u * s.ld + k] = M::operand(w);
  }
  clear_inputs(s, shared);

  const TimeOrder order = r.order, backwards{order.T, !order.reverse};
  const Cells cells(s, b_0, unit_0, B, H);
  const int longest = general ? longest_of_tile(r, b_0, s.batch) : order.T;
  Exchange<M, engine> exchange(s, shared, scratch, tiling.groups, group, kGates, unit_0);
  const scalar_t* mask_h_rows = offset<scalar_t>(r.mask_h, 0);
  int64_t t = r.steps.first(backwards);
  acc_t c[kCellsOfThread], dc[kCellsOfThread], carry[kCellsOfThread], m_h[kCellsOfThread];
#pragma unroll
  for (int k = 0; k < kCellsOfThread; ++k) {
    if (!cells.inside[k]) continue;
    c[k] = offset<acc_t>(r.c, order.slot(t) * state)[cells.at[k]];
    dc[k] = offset<acc_t>(r.dc, 0)[cells.at[k]];
    carry[k] = offset<acc_t>(r.dh_carry, 0)[cells.at[k]];
    m_h[k] = mask_h_rows ? acc_t(to_acc(mask_h_rows[cells.at[k]])) : acc_t(1);
  }
  sync_group_after_set_up<engine>();

  scalar_t gates[kCellsOfThread][kGates], dy[kCellsOfThread];
  acc_t c_prev[kCellsOfThread], m_g[kCellsOfThread];
  const auto fetch = [&](int64_t step) {
    const scalar_t* gates_t = offset<scalar_t>(r.gates, step * kGates * state);
    const acc_t* c_before = offset<acc_t>(r.c, order.slot_before(step) * state);
    const scalar_t* dy_t = offset<scalar_t>(r.dy, step * state);
    const RowNoise mask_g = r.noise.mask_g.at_step(step);
#pragma unroll
    for (int k = 0; k < kCellsOfThread; ++k) {
      if (!cells.inside[k]) continue;
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate) gates[k][gate] = gates_t[cells.row(k, b_0, H) + gate * H];
      c_prev[k] = c_before[cells.at[k]];
      if (dy_t) dy[k] = dy_t[cells.at[k]];
      m_g[k] = noise_at<scalar_t>(mask_g, b_0 + cells.b[k], unit_0 + cells.u[k], acc_t(1));
    }
  };
  fetch(t);

  bool has_product = false;  // dh~ of the step after, in shared.partial
  for (int left = r.steps.n; left > 0; --left) {
    const bool last = left == 1, running = !general || t < longest;
    scalar_t* da_t = offset<scalar_t>(r.da, t * kGates * state);
#pragma unroll
    for (int k = 0; k < kCellsOfThread; ++k) {
      if (!cells.there[k]) continue;
      const int b = cells.b[k], u = cells.u[k];
      acc_t da[kGates] = {};
      if (cells.inside[k]) {
        const acc_t dh_tilde = has_product ? sum_of_splits(s, shared.partial, b, u) : acc_t(0);
        const acc_t dh = carry[k] + m_h[k] * dh_tilde;
        carry[k] = dh;
        if (!general || !r.lengths || t < r.lengths[b_0 + b]) {
          const CellNoise<acc_t> cell_noise_k = cell_noise<scalar_t, general>(r.noise, t, m_g[k], b_0 + b, unit_0 + u);
          const acc_t dy_k = r.dy ? acc_t(to_acc(dy[k])) : acc_t(0);
          const CellBackward<acc_t> cell = cell_backward<general>(
              acc_t(to_acc(gates[k][kInput])), acc_t(to_acc(gates[k][kForget])), acc_t(to_acc(gates[k][kCandidate])),
              acc_t(to_acc(gates[k][kOutput])), cell_noise_k, c_prev[k], c[k], dh + dy_k, dc[k]);
          da[kInput] = cell.di_pre;
          da[kForget] = cell.df_pre;
          da[kCandidate] = cell.dg_pre;
          da[kOutput] = cell.do_pre;
          dc[k] = cell.dc_prev;
          carry[k] = cell.dh_prev;
        }
        c[k] = c_prev[k];
#pragma unroll
        for (int gate = 0; gate < kGates; ++gate) from_acc(da_t[cells.row(k, b_0, H) + gate * H], da[gate]);
      }
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate) {
        if (running) exchange.next(b, gate * s.padded_units + unit_0 + u) = M::operand(da[gate]);
      }
    }
    t = backwards.next(t);
    if (!last) fetch(t);
    has_product = running;  // past the ends da is 0
    if (running) {
      exchange.hand_over();
      product(s, shared, exchange);
      __syncthreads();
    }
  }

#pragma unroll
  for (int k = 0; k < kCellsOfThread; ++k) {
    if (!cells.inside[k]) continue;
    const acc_t dh_tilde = has_product ? sum_of_splits(s, shared.partial, cells.b[k], cells.u[k]) : acc_t(0);
    from_acc(offset<scalar_t>(r.dh_tilde, 0)[cells.at[k]], dh_tilde);
    offset<acc_t>(r.dc, 0)[cells.at[k]] = dc[k];
    offset<acc_t>(r.dh_carry, 0)[cells.at[k]] = carry[k];
  }
}

// ---------------------------------------------------------------- launch

template <class R>
using RecurrenceKernel = void (*)(const R, const Tiling, void*);

template <class R, class M, Engine engine, bool general>
RecurrenceKernel<R> kernel_of() {
  if constexpr (std::is_same_v<R, RecurrenceForward>) {
    return recurrence_forward_kernel<M, engine, general>;
  } else {
    return recurrence_backward_kernel<M, engine, general>;
  }
}
template <class R, class M, bool general>
RecurrenceKernel<R> kernel_of(Engine engine) {
  switch (engine) {
    case Engine::block: return kernel_of<R, M, Engine::block, general>();
    case Engine::cluster: return kernel_of<R, M, Engine::cluster, general>();
    case Engine::grid: return kernel_of<R, M, Engine::grid, general>();
    case Engine::automatic:
    case Engine::stepwise: break;
  }
  throw std::logic_error(std::string("no kernel runs a recurrence on the engine ") + name_of(engine));
}
template <class R, class M>
RecurrenceKernel<R> kernel_of(Engine engine, bool general) {
  return general ? kernel_of<R, M, true>(engine) : kernel_of<R, M, false>(engine);
}

inline LaunchCfg config_of(const Plan& plan, cudaStream_t stream) {
  LaunchCfg config;
  config.grid = dim3(plan.tiling.groups * plan.tiling.blocks);
  config.block = dim3(plan.tiling.threads);
  config.smem = plan.shared_memory;
  config.stream = stream;
  config.coop = plan.engine == Engine::grid;
  config.cluster = plan.engine == Engine::cluster ? plan.tiling.blocks : 1;
  return config;
}

template <class R>
cudaError_t launch_recurrence(const char* name, RecurrenceKernel<R> kernel, const R& r,
                              const RecurrenceLaunch& launch) {
  const Plan& plan = launch.plan;
  if (plan.engine == Engine::grid) {
    const cudaError_t error = set_to_zero(launch.scratch, plan.tiling.groups * kFlagBytes, launch.stream);
    if (error != cudaSuccess) return error;
  }
  return launch_kernel(config_of(plan, launch.stream), name, kernel, r, plan.tiling, launch.scratch);
}

}  // namespace

// An instantiation's file gives M its tile: struct Bfloat16 : HalfTile<__nv_bfloat16> {};
template <class M>
cudaError_t RecurrenceKernels<M>::forward(const RecurrenceForward& r, const RecurrenceLaunch& launch) {
  return launch_recurrence("recurrence_forward_kernel",
                           kernel_of<RecurrenceForward, M>(launch.plan.engine, is_general(r)), r, launch);
}

template <class M>
cudaError_t RecurrenceKernels<M>::backward(const RecurrenceBackward& r, const RecurrenceLaunch& launch) {
  return launch_recurrence("recurrence_backward_kernel",
                           kernel_of<RecurrenceBackward, M>(launch.plan.engine, is_general(r)), r, launch);
}

template <class M>
bool RecurrenceKernels<M>::fits(const Plan& plan, bool backward, bool general) {
  const LaunchCfg config = config_of(plan, nullptr);
  return backward ? can_run_at_once(config, kernel_of<RecurrenceBackward, M>(plan.engine, general))
                  : can_run_at_once(config, kernel_of<RecurrenceForward, M>(plan.engine, general));
}

}  // namespace rnndrop::cuda
