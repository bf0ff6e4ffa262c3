// The product of a step, W in^T of the block's rows: what a warp does with a tile, and which tiles it has.
//
// A tile is M::kRows rows of W by M::kBatch samples. A warp takes some tiles side by side, of the same rows, so that
// what it reads of W serves them all, over one split of the columns; the splits are added later, in a fixed order.
#pragma once

#include "recurrence_block.cuh"

namespace rnndrop::cuda {
namespace {

// The plain units. A lane has a row of W and all samples of the tiles.
template <class T>
struct PlainTile {
  using scalar_t = T;
  using acc_t = T;
  static constexpr int kRows = 32, kBatch = 4, kK = kVector<T>, kMostTiles = most_tiles_at_once(Math::plain);
  static constexpr int kStepsKept = 0;

  __device__ static T operand(T v) { return v; }

  // Where a lane begins in a tile: in its rows of W, its samples and its partial sums.
  __device__ static int lane_in_rows(int ld) { return threadIdx.x % 32 * ld; }
  __device__ static int lane_in_samples(int /*ld_in*/, int /*tiles*/) { return 0; }
  __device__ static int lane_in_partial(int /*ld_partial*/) { return threadIdx.x % 32; }

  // Of `steps` times kK columns, from the lane's places on; added to what is there already where `more`.
  template <int kTiles>
  __device__ static void multiply(const T* rows, const T* samples, int ld_in, int steps, int rows_left, T* partial,
                                  int ld_partial, bool more) {
    if (static_cast<int>(threadIdx.x % 32) >= rows_left) return;
    T sum[kTiles * kBatch] = {};
#pragma unroll 1
    for (int k = 0; k < steps * kK; k += kK) {
      // Rows lie an odd number of vectors apart: read as vectors, eight of them meet in no bank.
      const Vector<T> w = *reinterpret_cast<const Vector<T>*>(rows + k);
#pragma unroll
      for (int b = 0; b < kTiles * kBatch; ++b) {
        const Vector<T> x = *reinterpret_cast<const Vector<T>*>(samples + b * ld_in + k);
#pragma unroll
        for (int e = 0; e < kK; ++e) sum[b] += w.data[e] * x.data[e];
      }
    }
#pragma unroll
    for (int b = 0; b < kTiles * kBatch; ++b) {
      T& out = partial[b * ld_partial];
      out = more ? out + sum[b] : sum[b];
    }
  }
};

__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t* b, float) {
  mma_m16n8k8_tf32(d, a, {b[0], b[1]});
}
__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t* b, __nv_bfloat16) {
  mma_m16n8k16_bf16(d, a, {b[0], b[1]});
}
__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t* b, __half) {
  mma_m16n8k16_f16(d, a, {b[0], b[1]});
}

// The tensor cores. Rows of W are the m of an mma, samples its n; a k-step is 32 bytes of each row, and a matrix of
// ldmatrix eight rows of 16, of either type: a lane gets the four bytes that it needs as an operand.
template <class T>
struct TensorCoreTile {
  using scalar_t = T;
  using acc_t = float;
  static constexpr int kRows = 16, kBatch = 8, kK = 2 * kVector<T>, kMostTiles = most_tiles_at_once(Math::half);
  static constexpr int kStepsKept = kStepsInRegisters;

  // As PlainTile's.
  __device__ static int lane_in_rows(int ld) {
    const int lane = threadIdx.x % 32;
    return lane % 16 * ld + lane / 16 * kVector<T>;
  }
  // Of one tile of samples two k-steps are read at a time, of more two tiles.
  __device__ static int lane_in_samples(int ld_in, int tiles) {
    const int lane = threadIdx.x % 32;
    return tiles == 1 ? lane % 8 * ld_in + lane / 8 * kVector<T>
                      : (lane % 8 + lane / 16 * kBatch) * ld_in + lane / 8 % 2 * kVector<T>;
  }
  __device__ static int lane_in_partial(int ld_partial) {
    const int lane = threadIdx.x % 32;
    return lane % 4 * 2 * ld_partial + lane / 4;
  }

  template <int kTiles>
  __device__ static void multiply(const T* rows, const T* samples, int ld_in, int steps, int /*rows_left*/,
                                  float* partial, int ld_partial, bool more) {
    if constexpr (kTiles == 1) {
      // Each of the two k-steps has a sum of its own, so that one need not wait for the other.
      float sums[2][4] = {};
      const auto two_steps = [&] {
        uint32_t a[2][4], b[4];
        ldmatrix_x4(b, samples);
        ldmatrix_x4(a[0], rows);
        ldmatrix_x4(a[1], rows + kK);
        mma(sums[0], a[0], b, T());
        mma(sums[1], a[1], b + 2, T());
        samples += 2 * kK;
        rows += 2 * kK;
      };
#pragma unroll 1
      for (; steps >= 4; steps -= 4) {
        two_steps();
        two_steps();
      }
      if (steps & 2) two_steps();
      if (steps & 1) {
        uint32_t a[4], b[2];
        // The second two matrices would lie beyond the last k-step: their lanes name rows of the first two.
        ldmatrix_x2(b, samples - threadIdx.x % 32 / 16 * 2 * kVector<T>);
        ldmatrix_x4(a, rows);
        mma(sums[0], a, b, T());
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[0][i] += sums[1][i];
      store(sums[0], partial, ld_partial, more);
    } else {
      float sums[kTiles][4] = {};
#pragma unroll 2
      for (int k = 0; k < steps; ++k) {
        uint32_t a[4], b[kTiles / 2][4];
        ldmatrix_x4(a, rows);
#pragma unroll
        for (int pair = 0; pair < kTiles / 2; ++pair) ldmatrix_x4(b[pair], samples + pair * 2 * kBatch * ld_in);
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) mma(sums[tile], a, b[tile / 2] + tile % 2 * 2, T());
        samples += kK;
        rows += kK;
      }
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        store(sums[tile], partial + tile * kBatch * ld_partial, ld_partial, more);
      }
    }
  }

  // The same with W in registers, the same sums in the same order: of `tiles` tiles of rows, `apart` from each other,
  // `steps` k-steps each. What makes those a multiple of kStepsAtOnce is zeros.
  template <int kTiles, int kSteps>
  __device__ __forceinline__ static void multiply(const uint32_t (&W)[kSteps][4], int tiles, int steps, int apart,
                                                  const T* samples, int ld_in, float* partial, int ld_partial) {
    // Tiles of samples, or, of one, the even and the odd k-steps.
    float sums[kTiles == 1 ? 2 : kTiles][4] = {};
    int done = 0;  // k-steps of the tile
#pragma unroll
    for (int first = 0; first < kSteps; first += kStepsAtOnce) {
      if (tiles == 0) break;
#pragma unroll
      for (int k = 0; k < kStepsAtOnce; k += kTiles == 1 ? 2 : 1) {
        if constexpr (kTiles == 1) {
          uint32_t b[4];
          ldmatrix_x4(b, samples + (done + k) * kK);
          mma(sums[0], W[first + k], b, T());
          mma(sums[1], W[first + k + 1], b + 2, T());
        } else {
#pragma unroll
          for (int pair = 0; pair < kTiles / 2; ++pair) {
            uint32_t b[4];
            ldmatrix_x4(b, samples + pair * 2 * kBatch * ld_in + (done + k) * kK);
            mma(sums[2 * pair], W[first + k], b, T());
            mma(sums[2 * pair + 1], W[first + k], b + 2, T());
          }
        }
      }
      done += kStepsAtOnce;
      if (done < steps) continue;
      if constexpr (kTiles == 1) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[0][i] += sums[1][i], sums[1][i] = 0;
      }
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        store(sums[tile], partial + tile * kBatch * ld_partial, ld_partial, false);
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[tile][i] = 0;
      }
      partial += apart;
      done = 0;
      --tiles;
    }
  }

  // What multiply wants of k-step `k` of the rows.
  __device__ static void keep(uint32_t (&W)[4], const T* rows, int ld, int k) {
    ldmatrix_x4(W, rows + lane_in_rows(ld) + k * kK);
  }

 private:
  __device__ static void store(const float (&sum)[4], float* partial, int ld_partial, bool more) {
    const auto out = [&](int i) -> float& { return partial[i % 2 * ld_partial + 8 * (i / 2)]; };
    float before[4] = {};  // all of them asked for before the first is added to
    if (more) {
#pragma unroll
      for (int i = 0; i < 4; ++i) before[i] = out(i);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) out(i) = more ? before[i] + sum[i] : sum[i];
  }
};

struct Tf32Tile : TensorCoreTile<float> {
  // Rounded once, when it goes to shared memory, and not each time it is multiplied.
  __device__ static float operand(float v) { return __uint_as_float(to_tf32(v)); }
};

template <class T>
struct HalfTile : TensorCoreTile<T> {
  __device__ static T operand(float v) { return rounded<T>(v); }
};

// The tiles of a warp, W from shared memory. Which they are, and where a lane begins in the first of them, is worked
// out before the first step: what all blocks of a group wait for lies between an input that has come and its product.
template <class M>
class Product {
 public:
  __device__ Product(const Sizes& s, const Shared<M>&)
      : s_(s),
        tiles_rows_((s.rows + M::kRows - 1) / M::kRows),
        tiles_(tiles_rows_ * (s.batch / (M::kBatch * s.tiles_at_once))) {
    const int warp = threadIdx.x / 32, warps = blockDim.x / 32;
    const int split = warp % s.splits;
    stride_ = warps / s.splits;
    first_ = warp / s.splits < stride_ ? warp / s.splits : tiles_;
    row_ = first_ % tiles_rows_;
    const int first_sample = first_ / tiles_rows_ * M::kBatch * s.tiles_at_once;
    rows_ = row_ * M::kRows * s.ld + M::lane_in_rows(s.ld);
    samples_ = first_sample * s.ld_in + M::lane_in_samples(s.ld_in, s.tiles_at_once);
    partial_ = (split * s.batch + first_sample) * s.ld_partial + row_ * M::kRows + M::lane_in_partial(s.ld_partial);
    const int depth = (s.piece + M::kK - 1) / M::kK;
    const int depth_of_last = (s.K - (s.pieces - 1) * s.piece + M::kK - 1) / M::kK;
    begin_ = split * s.steps;
    steps_ = max(0, min(s.steps, depth - begin_));
    steps_of_last_ = max(0, min(s.steps, depth_of_last - begin_));
    keep_in_registers(rows_, samples_, partial_);
  }

  // partial[split][sample][row] of all rows, from the exchange's input
  template <class Exchange>
  __device__ void run(const Shared<M>& shared, Exchange& exchange) const {
    const int pieces = Exchange::kInPieces ? s_.pieces : 1;
#pragma unroll 1
    for (int piece = 0; piece < pieces; ++piece) {
      const typename M::scalar_t* const in = exchange.piece(piece);
      const int steps = piece + 1 == pieces ? steps_of_last_ : steps_;
      const bool more = piece > 0;
      if constexpr (M::kMostTiles == 1) {
        multiply<1>(shared, in, piece, steps, more);
      } else {
        switch (s_.tiles_at_once) {
          case 1: multiply<1>(shared, in, piece, steps, more); break;
          case 2: multiply<2>(shared, in, piece, steps, more); break;
          default: multiply<M::kMostTiles>(shared, in, piece, steps, more);
        }
      }
    }
  }

 private:
  template <int kTiles>
  __device__ void multiply(const Shared<M>& shared, const typename M::scalar_t* in, int piece, int steps,
                           bool more) const {
    const int begin = begin_ * M::kK;
    const typename M::scalar_t* rows = shared.W + rows_ + piece * s_.piece + begin;
    const typename M::scalar_t* samples = in + samples_ + begin;
    typename M::acc_t* partial = shared.partial + partial_;
    int row = row_, tile = first_;
    if (tile >= tiles_) return;
    while (true) {
      M::template multiply<kTiles>(rows, samples, s_.ld_in, steps, s_.rows - row * M::kRows, partial, s_.ld_partial,
                                   more);
      if ((tile += stride_) >= tiles_) return;
      int next = row + stride_, groups = 0;
      for (; next >= tiles_rows_; next -= tiles_rows_) ++groups;
      rows += (next - row) * M::kRows * s_.ld;
      samples += groups * M::kBatch * kTiles * s_.ld_in;
      partial += groups * M::kBatch * kTiles * s_.ld_partial + (next - row) * M::kRows;
      row = next;
    }
  }

  const Sizes& s_;
  int tiles_rows_, tiles_, stride_, first_, row_;
  int rows_, samples_, partial_;       // where the lane begins in the first tile
  int begin_, steps_, steps_of_last_;  // k-steps of a piece
};

// The tiles of a warp, which has its part of W in registers: some tiles of rows, one split, all samples.
template <class M, int kSteps>
class ProductOfRegisters {
 public:
  // Takes W from shared memory, which is free for others then.
  __device__ ProductOfRegisters(const Sizes& s, const Shared<M>& shared) : s_(s) {
    const int warp = threadIdx.x / 32, side_by_side = blockDim.x / 32 / s.splits;
    row_ = warp / s.splits * M::kRows;
    split_ = warp % s.splits;
    begin_ = split_ * s.steps;
    apart_ = side_by_side * M::kRows;
    const int rows_left = warp / s.splits < side_by_side ? s.rows - row_ : 0;
    const int depth = (s.K + M::kK - 1) / M::kK;
    tiles_ = rows_left > 0 ? (rows_left + apart_ - 1) / apart_ : 0;
    steps_ = min(s.steps, depth - begin_);
    __syncthreads();
    int row = row_, done = 0, left = tiles_;
#pragma unroll
    for (int first = 0; first < kSteps; first += kStepsAtOnce) {
      if (left == 0) break;
#pragma unroll
      // Rows are zeros as far as k-steps are rounded up.
      for (int k = 0; k < kStepsAtOnce; ++k) {
        M::keep(W_[first + k], shared.W + row * s.ld, s.ld, begin_ + done + k);
      }
      done += kStepsAtOnce;
      if (done < steps_) continue;
      row += apart_;
      done = 0;
      --left;
    }
    __syncthreads();
  }

  // As Product's.
  template <class Exchange>
  __device__ __forceinline__ void run(const Shared<M>& shared, Exchange& exchange) const {
    const typename M::scalar_t* const in = exchange.piece(0) + begin_ * M::kK;
    if (tiles_ == 0) return;
    switch (s_.tiles_at_once) {
      case 1: multiply<1>(shared, in); break;
      case 2: multiply<2>(shared, in); break;
      default: multiply<M::kMostTiles>(shared, in);
    }
  }

 private:
  template <int kTiles>
  __device__ __forceinline__ void multiply(const Shared<M>& shared, const typename M::scalar_t* in) const {
#pragma unroll 1
    for (int sample = 0; sample < s_.batch; sample += M::kBatch * kTiles) {
      const int sums = (split_ * s_.batch + sample) * s_.ld_partial + row_;
      M::template multiply<kTiles>(W_, tiles_, steps_, apart_,
                                   in + sample * s_.ld_in + M::lane_in_samples(s_.ld_in, kTiles), s_.ld_in,
                                   shared.partial + sums + M::lane_in_partial(s_.ld_partial), s_.ld_partial);
    }
  }

  const Sizes& s_;
  int row_, split_, begin_, apart_, tiles_, steps_;
  uint32_t W_[kSteps][4];
};

template <class M, int kSteps>
using ProductOf = std::conditional_t<kSteps == 0, Product<M>, ProductOfRegisters<M, kSteps>>;

// rows[k] of sample b, k < kRows, `step` apart: the splits outside, so that the rows' loads and sums go side by side.
template <int kRows, class acc_t>
__device__ __forceinline__ void sum_of_splits(acc_t (&sums)[kRows], const Sizes& s, const acc_t* partial, int b,
                                              int row, int step) {
  const acc_t* at = partial + b * s.ld_partial + row;
  const int next = s.batch * s.ld_partial;
#pragma unroll
  for (int k = 0; k < kRows; ++k) sums[k] = at[k * step];
#pragma unroll(kRows == 1 ? 4 : 2)
  for (int split = 1; split < s.splits; ++split) {
    at += next;
#pragma unroll
    for (int k = 0; k < kRows; ++k) sums[k] += at[k * step];
  }
}

}  // namespace
}  // namespace rnndrop::cuda
