// What the parts of Session's implementation share. Internal to session*.cc.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace sporkle::mesh {

template <typename T>
bool parse(std::span<const std::byte> data, T& message) {
  return message.ParseFromArray(data.data(), static_cast<int>(data.size()));
}

inline std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

}  // namespace sporkle::mesh
