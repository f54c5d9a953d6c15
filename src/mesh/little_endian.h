// Unsigned integers as the mesh's bytes have them, whatever the processor. Internal to mesh/. `at` has room for them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace sporkle::mesh {

template <typename T>
void store(std::byte* at, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) at[i] = static_cast<std::byte>(value >> (8 * i));
}

template <typename T>
T load(const std::byte* at) {
  T value = 0;
  for (size_t i = 0; i < sizeof(T); ++i) value = static_cast<T>(value | std::to_integer<T>(at[i]) << (8 * i));
  return value;
}

// `bytes` of them.
inline void append_integer(std::vector<std::byte>& out, uint64_t value, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) out.push_back(static_cast<std::byte>(value >> (8 * i)));
}

}  // namespace sporkle::mesh
