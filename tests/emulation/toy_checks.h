// What the programs of toy kernels share: data, comparison, and running cases by name. No torch and no Python, so that
// they also run under ThreadSanitizer.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

using Vector = std::vector<float>;

inline Vector normal(size_t size, float scale = 1) {
  static std::mt19937 generator(3);
  std::normal_distribution<float> distribution(0, scale);
  Vector values(size);
  for (float& value : values) value = distribution(generator);
  return values;
}

inline bool close(const char* name, const Vector& got, const Vector& expected, double tolerance) {
  for (size_t i = 0; i < expected.size(); i++) {
    if (std::fabs(got[i] - expected[i]) <= tolerance) continue;  // false for NaN too
    std::printf("FAIL %s: element %zu is %g, expected %g\n", name, i, got[i], expected[i]);
    return false;
  }
  return true;
}

inline bool launched(const char* name, int error) {
  if (error) std::printf("FAIL %s: CUDA error %d\n", name, error);
  return !error;
}

// The toy RNN: W[H,H], x[steps,H], expected[steps,H], from h_0 = 0.
struct Rnn {
  static constexpr int steps = 6, blocks = 8;
  int H;
  Vector W = normal(H * H, 0.15f), x = normal(steps * H), expected = Vector(steps * H);

  explicit Rnn(int hidden) : H(hidden) {
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

// program <mistake> [case ...]: all cases when none is named. Exit status 1 and a line "FAIL ..." on failure.
inline int run_cases(int argc, char** argv, const std::map<std::string, std::function<bool()>>& cases, int* mistake) {
  *mistake = argc > 1 ? std::atoi(argv[1]) : 0;
  std::vector<std::string> names(argv + std::min(argc, 2), argv + argc);
  if (names.empty()) {
    for (const auto& [name, check] : cases) names.push_back(name);
  }
  int failed = 0;
  for (const std::string& name : names) {
    try {
      failed += !cases.at(name)();
    } catch (const std::exception& error) {
      std::printf("FAIL %s: %s\n", name.c_str(), error.what());
      failed++;
    }
  }
  std::printf("%zu passed, %d failed\n", names.size() - failed, failed);
  return failed != 0;
}
