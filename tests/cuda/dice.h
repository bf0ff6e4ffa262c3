// What the drivers of the kernels draw their problems with, and how they read what comes back.
#pragma once

#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

#include "cuda_emulation.h"

inline std::mt19937 dice(1);
inline int64_t failures = 0;

inline double uniform(double low, double high) { return std::uniform_real_distribution<double>(low, high)(dice); }
inline bool coin() { return dice() % 2; }
inline int64_t one_of(const std::vector<int64_t>& values) { return values[dice() % values.size()]; }

inline double to_double(double v) { return v; }
inline double to_double(float v) { return v; }
inline double to_double(__nv_bfloat16 v) { return __bfloat162float(v); }
inline double to_double(__half v) { return __half2float(v); }

inline void expect_launched(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::printf("FAIL launch: error %d\n", static_cast<int>(error));
  ++failures;
}
