// What a dtype is computed in, and how a product takes it.
#pragma once

#include <cstdint>
#include <type_traits>

namespace rnndrop::cpu {

template <class T>
using acc_type = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <class T>
inline constexpr bool is_16_bits = sizeof(T) == 2;

// Neighbours along K that one multiplication takes, which a panel has side by side.
template <class T>
inline constexpr int64_t kTogether = is_16_bits<T> ? 2 : 1;

}  // namespace rnndrop::cpu
