// RFC 4648 base32 without padding, lower case. Thread-safe.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace sporkle::mesh {

std::string to_base32(std::span<const std::byte> data);
// Fills `out` from exactly as many characters as its size needs, in either case. False when `text` has another length,
// a character outside the alphabet, or bits set beyond the last byte.
bool from_base32(std::string_view text, std::span<std::byte> out);

}  // namespace sporkle::mesh
