// One block of a persistent kernel: its sizes, what it keeps in shared memory, its cells, and how weights get there.
#pragma once

#include "lstm_cell.h"
#include "numbers.cuh"
#include "recurrence.h"

namespace rnndrop::cuda {
namespace {

constexpr unsigned kAllLanes = 0xffffffff;

// Sizes as a block computes with them: 32 bits are enough for what lies in shared memory.
struct Sizes {
  int blocks, first_block, units, batch, rows, rows_padded, K, ld, piece, pieces, ld_in, buffers, splits, steps,
      tiles_at_once, ld_partial, padded_units, prefetch, share;
  bool in_registers;
  __device__ Sizes(const Tiling& t, Engine engine)
      : blocks(t.blocks),
        first_block(t.first_block),
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
        steps(t.steps),
        tiles_at_once(t.tiles_at_once),
        ld_partial(t.ld_partial()),
        padded_units(t.padded_units()),
        prefetch(t.prefetch),
        share(t.share),
        in_registers(t.in_registers) {}
};

// Which samples and units a block has.
struct Tile {
  int64_t B, H, state;  // of the layer: state is a [B,H]
  int64_t group, b_0;
  int unit_0;
  int64_t first, first_row;  // of the tile, in [B,H] and [B,4H]
  __device__ Tile(const Recurrence& r, const Sizes& s)
      : B(r.B),
        H(r.H),
        state(B * H),
        group((s.first_block + blockIdx.x) / s.blocks),
        b_0(group * s.batch),
        unit_0(blockIdx.x % s.blocks * s.units),
        first(b_0 * H + unit_0),
        first_row(b_0 * kGates * H + unit_0) {}
};

// What a block keeps in shared memory.
template <class M>
struct Shared {
  using scalar_t = typename M::scalar_t;
  using acc_t = typename M::acc_t;

  scalar_t* W;     // [rows_padded, ld]; in registers, it was here before what follows came into its place
  scalar_t* in;    // [buffers, batch, ld_in]: h~ or da of all units, or a piece of it
  acc_t* partial;  // [splits, batch, ld_partial]
  acc_t* bias;     // [4, units]
  uint64_t* full;  // [2], of cluster and multicast: mbarriers, one for each buffer of the input

  __device__ Shared(unsigned char* bytes, const Sizes& s)
      : W(reinterpret_cast<scalar_t*>(bytes)),
        in(W + (s.in_registers ? 0 : s.rows_padded * s.ld)),
        partial(reinterpret_cast<acc_t*>(in + s.buffers * s.batch * s.ld_in)),
        bias(partial + s.splits * s.batch * s.ld_partial),
        full(reinterpret_cast<uint64_t*>(bias + kGates * s.units)) {}
};

// Cells (sample, unit) of a block's tile, kCellsOfThread of each thread; neighbouring threads have neighbouring units.
struct Cells {
  int b[kCellsOfThread], u[kCellsOfThread];  // within the tile
  bool there[kCellsOfThread];                // in the tile
  bool inside[kCellsOfThread];               // and not beyond the batch or the last unit
  int at[kCellsOfThread];                    // in [B,H], from the tile's first cell on
  int row[kCellsOfThread];                   // of gate 0 in [B,4H], likewise

  __device__ Cells(const Sizes& s, const Tile& tile) {
#pragma unroll
    for (int k = 0; k < kCellsOfThread; ++k) {
      const int cell = threadIdx.x + k * blockDim.x;
      b[k] = cell / s.units;
      u[k] = cell % s.units;
      there[k] = b[k] < s.batch;
      inside[k] = there[k] && tile.b_0 + b[k] < tile.B && tile.unit_0 + u[k] < tile.H;
      at[k] = b[k] * static_cast<int>(tile.H) + u[k];
      row[k] = at[k] + b[k] * static_cast<int>(tile.H) * (kGates - 1);
    }
  }
};

// ---------------------------------------------------------------- weights

// The vector at `from`, of whose elements `n` are there. Whole where it is one access.
template <class T>
__device__ __forceinline__ Vector<T> load_vector(const T* from, int64_t n, bool aligned) {
  if (aligned && n >= kVector<T>) return *reinterpret_cast<const Vector<T>*>(from);
  Vector<T> v;
#pragma unroll
  for (int e = 0; e < kVector<T>; ++e) v.data[e] = e < n ? from[e] : rounded<T>(acc_type<T>(0));
  return v;
}

// Whether every vector of every row may be read in one access.
template <class T>
__device__ __forceinline__ bool rows_are_aligned(const T* rows, int64_t columns) {
  return reinterpret_cast<uintptr_t>(rows) % sizeof(Vector<T>) == 0 && columns % kVector<T> == 0;
}

template <class M, class T>
__device__ __forceinline__ T operand_of(T v) {
  return M::operand(to_acc(v));
}

template <class T>
__device__ void fill_with_zeros(T* to, int n) {
  const Vector<T> zeros = load_vector<T>(nullptr, 0, false);
  for (int k = threadIdx.x * kVector<T>; k < n; k += blockDim.x * kVector<T>) {
    *reinterpret_cast<Vector<T>*>(to + k) = zeros;
  }
}

// Forward: row n is gate n / units of unit unit_0 + n % units. A warp takes a row at a time.
template <class M>
__device__ void load_rows(typename M::scalar_t* to, const typename M::scalar_t* W_hh, const Sizes& s, int64_t unit_0,
                          int64_t H) {
  using T = typename M::scalar_t;
  const bool aligned = rows_are_aligned(W_hh, H);
  for (int n = threadIdx.x / 32; n < s.rows_padded; n += blockDim.x / 32) {
    const int64_t gate = n / s.units, j = unit_0 + n % s.units;
    const bool there = n < s.rows && j < H;
    const T* const row = W_hh + (there ? (gate * H + j) * H : 0);
#pragma unroll 4
    for (int k = threadIdx.x % 32 * kVector<T>; k < s.ld; k += 32 * kVector<T>) {
      Vector<T> w = load_vector(row + k, there ? H - k : 0, aligned);
#pragma unroll
      for (int e = 0; e < kVector<T>; ++e) w.data[e] = operand_of<M>(w.data[e]);
      *reinterpret_cast<Vector<T>*>(to + n * s.ld + k) = w;
    }
  }
}

// Backward: row u is column unit_0 + u of W_hh. What is read as a vector of neighbouring columns is written as as many
// rows, one element each, by neighbouring threads side by side.
template <class M>
__device__ void load_columns(typename M::scalar_t* to, const typename M::scalar_t* W_hh, const Sizes& s, int64_t unit_0,
                             int64_t H) {
  using T = typename M::scalar_t;
  const bool aligned = rows_are_aligned(W_hh, H);
  fill_with_zeros(to, s.rows_padded * s.ld);
  __syncthreads();
  for (int gate = 0; gate < kGates; ++gate) {
    for (int u = 0; u < s.units && unit_0 + u < H; u += kVector<T>) {
#pragma unroll 4
      for (int j = threadIdx.x; j < H; j += blockDim.x) {
        const Vector<T> w = load_vector(W_hh + (gate * H + j) * H + unit_0 + u, H - unit_0 - u, aligned);
#pragma unroll
        for (int e = 0; e < kVector<T>; ++e) {
          to[(u + e) * s.ld + gate * s.padded_units + j] = operand_of<M>(w.data[e]);
        }
      }
    }
  }
}

// ---------------------------------------------------------------- set-up

// Has nvcc keep what it would else work out anew in each step.
template <class... Int>
__device__ __forceinline__ void keep_in_registers(Int&... values) {
  (..., [&] { asm volatile("" : "+r"(values)); }());
}

// The mask on h, of all of a thread's cells; 1 where there is none.
template <class scalar_t, class acc_t>
__device__ __forceinline__ void load_mask_h(acc_t (&m_h)[kCellsOfThread], const RowNoise& mask_h, const Cells& cells,
                                            const Tile& tile) {
  const auto* const mask = static_cast<const scalar_t*>(mask_h.data);
#pragma unroll
  for (int k = 0; k < kCellsOfThread; ++k) {
    m_h[k] = 1;
    if (mask && cells.inside[k])
      m_h[k] = to_acc(mask[(tile.b_0 + cells.b[k]) * mask_h.stride + tile.unit_0 + cells.u[k]]);
  }
}

// Nobody writes to another block's shared memory before that block has set it up.
template <Engine engine>
__device__ void sync_group_after_set_up() {
  __syncthreads();
#if HAS_CLUSTERS
  if (engine == Engine::cluster || engine == Engine::multicast) cg::this_cluster().sync();
#endif
}

// Where sample b ends, within [0,T].
__device__ inline int end_of(const Recurrence& r, int64_t b) {
  return r.lengths ? static_cast<int>(max(int64_t(0), min(r.order.T, r.lengths[b]))) : static_cast<int>(r.order.T);
}

// The steps that some sample of the tile still runs are those with t < longest.
__device__ inline int longest_of_tile(const Recurrence& r, int64_t b_0, int batch) {
  if (!r.lengths) return r.order.T;
  int longest = 0;
  for (int64_t b = b_0; b < min(r.B, b_0 + batch); ++b) longest = max(longest, end_of(r, b));
  return longest;
}

// ---------------------------------------------------------------- what a step reads, ahead of it

// read(to, from): into a register, or, without it, as far as the second cache.
struct Load {
  template <class T>
  __device__ __forceinline__ void operator()(T& to, const T* from) const {
    to = *from;
  }
};
struct Prefetch {
  template <class T>
  __device__ __forceinline__ void operator()(T&, const T* from) const {
    prefetch_to_l2(from);
  }
};

// A thread waits for a load by a counter, one of six, which counts other loads too. Where only some threads load and
// read, nvcc cannot see that a load is long over: whoever reads or fills its register next waits for the counter, and
// so for all that this counts by then, such as what the next step reads. Therefore all threads do two things where
// there is nothing to wait for; neither changes a value that anybody uses. After the loads before the first step, for
// what lives through all steps as it was loaded, they read it; by a shuffle, which nvcc cannot leave out:
template <class T>
__device__ __forceinline__ void settle_loads(T (&loaded)[kCellsOfThread]) {
#pragma unroll
  for (int k = 0; k < kCellsOfThread; ++k) loaded[k] = __shfl_sync(kAllLanes, loaded[k], threadIdx.x % 32);
}
// And before the loads of a step they write to the registers that these fill:
template <class T>
__device__ __forceinline__ void clear_before_load(T& register_) {
  register_ = rounded<T>(acc_type<T>(0));
}
template <class T, int n>
__device__ __forceinline__ void clear_before_load(T (&registers)[n]) {
#pragma unroll
  for (int k = 0; k < n; ++k) clear_before_load(registers[k]);
}

// As it lies in memory: it is converted where it is used, which is when it has come.
template <class scalar_t>
struct FetchedNoise {
  scalar_t m_g, m_c, z_c, z_h;
};

template <bool general, class scalar_t>
__device__ __forceinline__ void clear_before_load(FetchedNoise<scalar_t> (&noise)[kCellsOfThread]) {
#pragma unroll
  for (int k = 0; k < kCellsOfThread; ++k) {
    clear_before_load(noise[k].m_g);
    if (!general) continue;
    clear_before_load(noise[k].m_c);
    clear_before_load(noise[k].z_c);
    clear_before_load(noise[k].z_h);
  }
}

// Of a kind, where a tile's begins at step t.
template <class scalar_t>
__device__ __forceinline__ const scalar_t* noise_of_tile(const SequenceNoise& noise, int64_t t, const Tile& tile) {
  return offset<scalar_t>(noise.at_step(t).data, tile.b_0 * noise.row_stride + tile.unit_0);
}

// From one step to the next; 0 where there is none.
template <class scalar_t>
__device__ __forceinline__ int64_t elements_a_step(const SequenceNoise& noise) {
  return noise.data ? noise.step_bytes / static_cast<int64_t>(sizeof(scalar_t)) : 0;
}

// The noise of step t, of all of a thread's cells; m_g's of the tile is there.
template <bool general, class scalar_t, class Read>
__device__ __forceinline__ void read_noise(FetchedNoise<scalar_t> (&to)[kCellsOfThread], const LayerNoise& noise,
                                           const scalar_t* m_g, int64_t t, const Cells& cells, const Tile& tile,
                                           const Read& read) {
  const auto read_kind = [&](scalar_t FetchedNoise<scalar_t>::* kind, const scalar_t* of_tile, int stride) {
#pragma unroll
    for (int k = 0; k < kCellsOfThread; ++k) {
      if (cells.inside[k]) read(to[k].*kind, of_tile + cells.b[k] * stride + cells.u[k]);
    }
  };
  const auto read_other = [&](scalar_t FetchedNoise<scalar_t>::* kind, const SequenceNoise& of_kind) {
    if (of_kind.data) read_kind(kind, noise_of_tile<scalar_t>(of_kind, t, tile), of_kind.row_stride);
  };
  if (noise.mask_g.data) read_kind(&FetchedNoise<scalar_t>::m_g, m_g, noise.mask_g.row_stride);
  if (!general) return;
  read_other(&FetchedNoise<scalar_t>::m_c, noise.mask_c);
  read_other(&FetchedNoise<scalar_t>::z_c, noise.zone_c);
  read_other(&FetchedNoise<scalar_t>::z_h, noise.zone_h);
}

template <bool general, class acc_t, class scalar_t>
__device__ __forceinline__ CellNoise<acc_t> cell_noise(const FetchedNoise<scalar_t>& fetched, const LayerNoise& noise) {
  CellNoise<acc_t> cell;
  if (noise.mask_g.data) cell.m_g = to_acc(fetched.m_g);
  if (!general) return cell;
  if (noise.mask_c.data) cell.m_c = to_acc(fetched.m_c);
  if (noise.zone_c.data) cell.z_c = to_acc(fetched.z_c);
  if (noise.zone_h.data) cell.z_h = to_acc(fetched.z_h);
  return cell;
}

}  // namespace
}  // namespace rnndrop::cuda
