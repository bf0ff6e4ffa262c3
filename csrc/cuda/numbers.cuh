// Numbers as kernels load, compute and store them. By name, not by cast: torch's build flags switch the implicit
// conversions of the half types off.
#pragma once

#include <type_traits>

#include "portable.cuh"

namespace rnndrop::cuda {

// As much as one access reads or writes, at a multiple of its size.
template <class T>
constexpr int kVector = 16 / sizeof(T);
template <class T>
struct alignas(16) Vector {
  T data[kVector<T>];
};

template <class scalar_t>
using acc_type = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;

__device__ __forceinline__ double to_acc(double v) { return v; }
__device__ __forceinline__ float to_acc(float v) { return v; }
__device__ __forceinline__ float to_acc(__nv_bfloat16 v) { return __bfloat162float(v); }
__device__ __forceinline__ float to_acc(__half v) { return __half2float(v); }

__device__ __forceinline__ void from_acc(double& out, double v) { out = v; }
__device__ __forceinline__ void from_acc(float& out, float v) { out = v; }
__device__ __forceinline__ void from_acc(__nv_bfloat16& out, float v) { out = __float2bfloat16_rn(v); }
__device__ __forceinline__ void from_acc(__half& out, float v) { out = __float2half_rn(v); }

template <class scalar_t, class acc_t>
__device__ __forceinline__ scalar_t rounded(acc_t v) {
  scalar_t out;
  from_acc(out, v);
  return out;
}

// Null stays null: the argument is absent.
template <class T>
__device__ __forceinline__ const T* offset(const void* base, int64_t elements) {
  return base ? static_cast<const T*>(base) + elements : nullptr;
}
template <class T>
__device__ __forceinline__ T* offset(void* base, int64_t elements) {
  return base ? static_cast<T*>(base) + elements : nullptr;
}

}  // namespace rnndrop::cuda
