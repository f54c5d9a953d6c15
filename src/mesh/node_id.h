// NodeId: the name of a node, and Ed25519 public keys and signatures as plain bytes.
//
// A node is a key. Its ID is the SHA-256 of its raw public key, written as 52 characters of base32; people are shown
// the first eight. Plain values: copyable, usable from any thread.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "base/status.h"

namespace sporkle::mesh {

using PublicKey = std::array<std::byte, 32>;
using Signature = std::array<std::byte, 64>;

struct NodeId {
  std::array<std::byte, 32> bytes{};

  static NodeId of(const PublicKey& key);
  // Reads to_string()'s form, in either case. invalid_argument when it is no ID.
  static Result<NodeId> parse(std::string_view text);

  // 52 characters of lower-case base32.
  std::string to_string() const;
  // The first 8 characters of to_string(): for people to read, not for a program to trust.
  std::string short_id() const;

  auto operator<=>(const NodeId&) const = default;
};

// Whether `signature` over `message` was made by the holder of `key`.
bool verify_signature(const PublicKey& key, std::span<const std::byte> message, const Signature& signature);

}  // namespace sporkle::mesh

template <>
struct std::hash<sporkle::mesh::NodeId> {
  size_t operator()(const sporkle::mesh::NodeId& id) const noexcept {
    size_t value = 0;  // the bytes are a SHA-256, so any of them are a good hash
    for (size_t i = 0; i < sizeof value; ++i) value = value << 8 | std::to_integer<size_t>(id.bytes[i]);
    return value;
  }
};
