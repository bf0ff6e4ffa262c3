// Runs toy kernels against plain loops: program <mistake> [case ...], see toy_checks.h.
#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "cuda_bf16.h"
#include "toy_checks.h"
#include "toy_kernels.h"

namespace {

bool check_matmul() {
  const int M = 37, N = 45, K = 50;  // no multiples of the tile
  const Vector A = normal(M * K), B = normal(K * N);
  Vector C(M * N, NAN), expected(M * N);
  for (int i = 0; i < M; i++) {
    for (int j = 0; j < N; j++) {
      double sum = 0;
      for (int k = 0; k < K; k++) sum += A[i * K + k] * B[k * N + j];
      expected[i * N + j] = static_cast<float>(sum);
    }
  }
  const int error = toy::matmul(A.data(), B.data(), C.data(), M, N, K, nullptr);
  return launched("matmul", error) && close("matmul", C, expected, 1e-4);
}

bool check_rnn_grid(const char* name, bool own_barrier) {
  const Rnn rnn(32);
  unsigned counter = 0;
  Vector hs((Rnn::steps + 1) * rnn.H, NAN);
  std::fill(hs.begin(), hs.begin() + rnn.H, 0.f);
  const int error = toy::rnn_grid(rnn.W.data(), rnn.x.data(), hs.data(), rnn.H, Rnn::steps, Rnn::blocks,
                                  own_barrier ? &counter : nullptr, nullptr);
  hs.erase(hs.begin(), hs.begin() + rnn.H);
  return launched(name, error) && close(name, hs, rnn.expected, 1e-5);
}

bool check_rnn_cluster() {
  const Rnn rnn(32);
  Vector out(Rnn::steps * rnn.H, NAN);
  const int error = toy::rnn_cluster(rnn.W.data(), rnn.x.data(), out.data(), rnn.H, Rnn::steps, Rnn::blocks, nullptr);
  return launched("rnn_cluster", error) && close("rnn_cluster", out, rnn.expected, 1e-5);
}

// C[16,N] = A[16,K] B[N,K]^T
Vector product_of_rows(const Vector& A, const Vector& B, int N, int K) {
  Vector C(16 * N);
  for (int i = 0; i < 16; i++) {
    for (int j = 0; j < N; j++) {
      double sum = 0;
      for (int k = 0; k < K; k++) sum += static_cast<double>(A[i * K + k]) * B[j * K + k];
      C[i * N + j] = static_cast<float>(sum);
    }
  }
  return C;
}

// Values that a 10-bit (tf32) or 7-bit (bf16) mantissa holds, so that the product is exact but for the sum.
Vector coarse(size_t size, float step) {
  Vector values = normal(size);
  for (float& value : values) value = std::round(value / step) * step;
  return values;
}

bool check_mma_tf32() {
  const int N = 24, K = 40;
  Vector A = coarse(16 * K, 1 / 64.f), B = coarse(N * K, 1 / 64.f), C(16 * N, NAN);
  const Vector expected = product_of_rows(A, B, N, K);
  // What to_tf32 must round away.
  for (float& value : A) value *= 1 + 0x1p-13f;
  const int error = toy::mma_tf32(A.data(), B.data(), C.data(), N, K, nullptr);
  return launched("mma_tf32", error) && close("mma_tf32", C, expected, 1e-5);
}

bool check_mma_bf16() {
  const int N = 24, K = 64;
  const Vector A = coarse(16 * K, 1 / 16.f), B = coarse(N * K, 1 / 16.f);
  const std::vector<__nv_bfloat16> a(A.begin(), A.end()), b(B.begin(), B.end());
  Vector C(16 * N, NAN);
  const int error = toy::mma_bf16(a.data(), b.data(), C.data(), N, K, nullptr);
  return launched("mma_bf16", error) && close("mma_bf16", C, product_of_rows(A, B, N, K), 1e-5);
}

const std::map<std::string, std::function<bool()>> kCases = {
    {"matmul", check_matmul},
    {"rnn_grid", [] { return check_rnn_grid("rnn_grid", false); }},
    {"rnn_own_barrier", [] { return check_rnn_grid("rnn_own_barrier", true); }},
    {"rnn_cluster", check_rnn_cluster},
    {"mma_tf32", check_mma_tf32},
    {"mma_bf16", check_mma_bf16},
};

}  // namespace

int main(int argc, char** argv) { return run_cases(argc, argv, kCases, &planted_mistake); }
