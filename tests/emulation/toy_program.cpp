// Runs toy kernels against plain loops: program <mistake> [case ...], all cases when none is named.
// No torch and no Python, so that it also runs under ThreadSanitizer. Exit status 1 and a line "FAIL ..." on failure.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "cuda_bf16.h"
#include "toy_kernels.h"

namespace {

using Vector = std::vector<float>;

Vector normal(size_t size, float scale = 1) {
  static std::mt19937 generator(3);
  std::normal_distribution<float> distribution(0, scale);
  Vector values(size);
  for (float& value : values) value = distribution(generator);
  return values;
}

bool close(const char* name, const Vector& got, const Vector& expected, double tolerance) {
  for (size_t i = 0; i < expected.size(); i++) {
    if (std::fabs(got[i] - expected[i]) <= tolerance) continue;  // false for NaN too
    std::printf("FAIL %s: element %zu is %g, expected %g\n", name, i, got[i], expected[i]);
    return false;
  }
  return true;
}

bool launched(const char* name, int error) {
  if (error) std::printf("FAIL %s: CUDA error %d\n", name, error);
  return !error;
}

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

// The toy RNN: W[H,H], x[steps,H], expected[steps,H], from h_0 = 0.
struct Rnn {
  static constexpr int H = 32, steps = 6, blocks = 8;
  Vector W = normal(H * H, 0.15f), x = normal(steps * H), expected = Vector(steps * H);

  Rnn() {
    Vector h(H, 0.f);
    for (int t = 0; t < steps; t++) {
      for (int i = 0; i < H; i++) {
        double sum = x[t * H + i];
        for (int j = 0; j < H; j++) sum += W[i * H + j] * h[j];
        expected[t * H + i] = static_cast<float>(std::tanh(sum));
      }
      h.assign(expected.begin() + t * H, expected.begin() + (t + 1) * H);
    }
  }
};

bool check_rnn_grid(const char* name, bool own_barrier) {
  const Rnn rnn;
  unsigned counter = 0;
  Vector hs((Rnn::steps + 1) * Rnn::H, NAN);
  std::fill(hs.begin(), hs.begin() + Rnn::H, 0.f);
  const int error = toy::rnn_grid(rnn.W.data(), rnn.x.data(), hs.data(), Rnn::H, Rnn::steps, Rnn::blocks,
                                  own_barrier ? &counter : nullptr, nullptr);
  hs.erase(hs.begin(), hs.begin() + Rnn::H);
  return launched(name, error) && close(name, hs, rnn.expected, 1e-5);
}

bool check_rnn_cluster() {
  const Rnn rnn;
  Vector out(Rnn::steps * Rnn::H, NAN);
  const int error = toy::rnn_cluster(rnn.W.data(), rnn.x.data(), out.data(), Rnn::H, Rnn::steps, Rnn::blocks, nullptr);
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

int main(int argc, char** argv) {
  planted_mistake = argc > 1 ? std::atoi(argv[1]) : kNoMistake;
  std::vector<std::string> names(argv + std::min(argc, 2), argv + argc);
  if (names.empty()) {
    for (const auto& [name, check] : kCases) names.push_back(name);
  }
  int failed = 0;
  for (const std::string& name : names) {
    try {
      failed += !kCases.at(name)();
    } catch (const std::exception& error) {
      std::printf("FAIL %s: %s\n", name.c_str(), error.what());
      failed++;
    }
  }
  std::printf("%zu passed, %d failed\n", names.size() - failed, failed);
  return failed != 0;
}
