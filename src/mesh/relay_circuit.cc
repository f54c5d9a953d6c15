#include "mesh/relay_circuit.h"

#include <algorithm>
#include <string>

namespace sporkle::mesh {
namespace {

constexpr std::array<std::byte, 4> magic{std::byte{'S'}, std::byte{'P'}, std::byte{'R'}, std::byte{'J'}};
constexpr std::byte version{1};
constexpr size_t token_at = 8;

}  // namespace

RelayPreamble encode_relay_preamble(const CircuitToken& token) {
  RelayPreamble bytes{};
  std::ranges::copy(magic, bytes.begin());
  bytes[magic.size()] = version;
  std::ranges::copy(token, bytes.begin() + token_at);
  return bytes;
}

Result<CircuitToken> decode_relay_preamble(std::span<const std::byte> bytes) {
  if (bytes.size() != relay_preamble_bytes)
    return corrupt_data("a relay's preamble has " + std::to_string(relay_preamble_bytes) + " bytes, not " +
                        std::to_string(bytes.size()));
  if (!std::ranges::equal(bytes.first(magic.size()), magic)) return corrupt_data("not a relay's preamble");
  if (bytes[magic.size()] != version)
    return unsupported("a relay's preamble of version " + std::to_string(std::to_integer<int>(bytes[magic.size()])) +
                       "; this program knows version 1");
  if (std::ranges::any_of(bytes.subspan(5, 3), [](std::byte b) { return b != std::byte{0}; }))
    return corrupt_data("a relay's preamble has bytes set that must be 0");
  CircuitToken token;
  std::ranges::copy(bytes.subspan(token_at), token.begin());
  return token;
}

}  // namespace sporkle::mesh
