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

  // Columns [begin, end) in units of kK, to partial[sample][row]; added to what is there already where `more`.
  template <int kTiles>
  __device__ static void multiply(const T* W, int ld, const T* in, int ld_in, int begin, int end, int rows_left,
                                  T* partial, int ld_partial, bool more) {
    const int lane = threadIdx.x % 32;
    if (lane >= rows_left) return;
    T sum[kTiles * kBatch] = {};
#pragma unroll 1
    for (int k = begin * kK; k < end * kK; k += kK) {
      // Rows lie an odd number of vectors apart: read as vectors, eight of them meet in no bank.
      const Vector<T> w = *reinterpret_cast<const Vector<T>*>(W + lane * ld + k);
#pragma unroll
      for (int b = 0; b < kTiles * kBatch; ++b) {
        const Vector<T> x = *reinterpret_cast<const Vector<T>*>(in + b * ld_in + k);
#pragma unroll
        for (int e = 0; e < kK; ++e) sum[b] += w.data[e] * x.data[e];
      }
    }
#pragma unroll
    for (int b = 0; b < kTiles * kBatch; ++b) {
      T& out = partial[b * ld_partial + lane];
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

  template <int kTiles>
  __device__ static void multiply(const T* W, int ld, const T* in, int ld_in, int begin, int end, int /*rows_left*/,
                                  float* partial, int ld_partial, bool more) {
    const int lane = threadIdx.x % 32;
    const T* const rows = W + lane % 16 * ld + lane / 16 * kVector<T>;
    if constexpr (kTiles == 1) {
      // Two k-steps at a time, each with a sum of its own, so that one need not wait for the other.
      const T* const samples = in + lane % 8 * ld_in + lane / 8 * kVector<T>;
      float sums[2][4] = {};
      int k = begin;
#pragma unroll 2
      for (; k + 1 < end; k += 2) {
        uint32_t a[2][4], b[4];
        ldmatrix_x4(b, samples + k * kK);
        ldmatrix_x4(a[0], rows + k * kK);
        ldmatrix_x4(a[1], rows + k * kK + kK);
        mma(sums[0], a[0], b, T());
        mma(sums[1], a[1], b + 2, T());
      }
      if (k < end) {
        uint32_t a[4], b[2];
        ldmatrix_x2(b, in + lane % 8 * ld_in + lane / 8 % 2 * kVector<T> + k * kK);
        ldmatrix_x4(a, rows + k * kK);
        mma(sums[0], a, b, T());
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[0][i] += sums[1][i];
      store(sums[0], partial, ld_partial, more);
    } else {
      const T* const samples = in + (lane % 8 + lane / 16 * kBatch) * ld_in + lane / 8 % 2 * kVector<T>;
      float sums[kTiles][4] = {};
#pragma unroll 2
      for (int k = begin; k < end; ++k) {
        uint32_t a[4], b[kTiles / 2][4];
        ldmatrix_x4(a, rows + k * kK);
#pragma unroll
        for (int pair = 0; pair < kTiles / 2; ++pair)
          ldmatrix_x4(b[pair], samples + pair * 2 * kBatch * ld_in + k * kK);
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) mma(sums[tile], a, b[tile / 2] + tile % 2 * 2, T());
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
                                                  const T* in, int ld_in, float* partial, int ld_partial) {
    const int lane = threadIdx.x % 32;
    // Tiles of samples, or, of one, the even and the odd k-steps.
    float sums[kTiles == 1 ? 2 : kTiles][4] = {};
    const T* const samples = kTiles == 1 ? in + lane % 8 * ld_in + lane / 8 * kVector<T>
                                         : in + (lane % 8 + lane / 16 * kBatch) * ld_in + lane / 8 % 2 * kVector<T>;
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
    const int lane = threadIdx.x % 32;
    ldmatrix_x4(W, rows + lane % 16 * ld + lane / 16 * kVector<T> + k * kK);
  }

 private:
  __device__ static void store(const float (&sum)[4], float* partial, int ld_partial, bool more) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float& out = partial[(2 * t + i % 2) * ld_partial + g + 8 * (i / 2)];
      out = more ? out + sum[i] : sum[i];
    }
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

// The tiles of a warp, W from shared memory. Which they are is worked out before the first step: a division takes
// longer than a tile.
template <class M>
class Product {
 public:
  __device__ Product(const Sizes& s, const Shared<M>&)
      : s_(s),
        tiles_rows_((s.rows + M::kRows - 1) / M::kRows),
        tiles_(tiles_rows_ * (s.batch / (M::kBatch * s.at_once))) {
    const int warp = threadIdx.x / 32, warps = blockDim.x / 32;
    stride_ = warps / s.splits;
    split_ = warp % s.splits;
    first_ = warp / s.splits < stride_ ? warp / s.splits : tiles_;
    row_ = first_ % tiles_rows_;
    group_ = first_ / tiles_rows_;
    begin_ = split_ * s.steps;
    end_ = begin_ + s.steps;
  }

  // partial[split][sample][row] of all rows, from the exchange's input
  template <class Exchange>
  __device__ void run(const Shared<M>& shared, Exchange& exchange) const {
    const int pieces = Exchange::kInPieces ? s_.pieces : 1;
#pragma unroll 1
    for (int piece = 0; piece < pieces; ++piece) {
      const typename M::scalar_t* const in = exchange.piece(piece);
      const int first = piece * s_.piece, columns = Exchange::kInPieces ? min(s_.piece, s_.K - first) : s_.K;
      const int depth = (columns + M::kK - 1) / M::kK;
      const int begin = min(begin_, depth), end = min(end_, depth);
      if constexpr (M::kMostTiles == 1) {
        multiply<1>(shared, in, first, begin, end, piece > 0);
      } else {
        switch (s_.at_once) {
          case 1: multiply<1>(shared, in, first, begin, end, piece > 0); break;
          case 2: multiply<2>(shared, in, first, begin, end, piece > 0); break;
          default: multiply<M::kMostTiles>(shared, in, first, begin, end, piece > 0);
        }
      }
    }
  }

 private:
  template <int kTiles>
  __device__ void multiply(const Shared<M>& shared, const typename M::scalar_t* in, int first, int begin, int end,
                           bool more) const {
    int row = row_, group = group_;
#pragma unroll 1
    for (int tile = first_; tile < tiles_; tile += stride_) {
      const int sample = group * (M::kBatch * kTiles);
      M::template multiply<kTiles>(shared.W + row * M::kRows * s_.ld + first, s_.ld, in + sample * s_.ld_in, s_.ld_in,
                                   begin, end, s_.rows - row * M::kRows,
                                   shared.partial + (split_ * s_.batch + sample) * s_.ld_partial + row * M::kRows,
                                   s_.ld_partial, more);
      for (row += stride_; row >= tiles_rows_; row -= tiles_rows_) ++group;
    }
  }

  const Sizes& s_;
  int tiles_rows_, tiles_, stride_, split_, first_, row_, group_, begin_, end_;
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
    const int rows_left = warp / s.splits < side_by_side ? s.rows - row_ : 0, depth = (s.K + M::kK - 1) / M::kK;
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
    switch (s_.at_once) {
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
      M::template multiply<kTiles>(W_, tiles_, steps_, apart_, in + sample * s_.ld_in, s_.ld_in,
                                   shared.partial + (split_ * s_.batch + sample) * s_.ld_partial + row_, s_.ld_partial);
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
