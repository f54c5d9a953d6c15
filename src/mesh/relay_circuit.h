// The preamble with which a node fetches one circuit from its relay: the first bytes on a connection to the relay's
// join port. After them the connection carries what the stranger sends, and the other way. Plain functions,
// thread-safe.
#pragma once

#include <array>
#include <cstddef>
#include <span>

#include "base/status.h"

namespace sporkle::mesh {

inline constexpr size_t relay_preamble_bytes = 24;

// Random, single use: whoever knows it gets the circuit.
using CircuitToken = std::array<std::byte, 16>;
using RelayPreamble = std::array<std::byte, relay_preamble_bytes>;

RelayPreamble encode_relay_preamble(const CircuitToken& token);
// corrupt_data when it is none; unsupported when it is of another version.
Result<CircuitToken> decode_relay_preamble(std::span<const std::byte> bytes);

}  // namespace sporkle::mesh
