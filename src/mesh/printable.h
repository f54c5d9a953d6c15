// Text from a peer, made safe to show. Thread-safe.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace sporkle::mesh {

// `text` as valid UTF-8 of at most `max_bytes`: control characters, which could drive a terminal, and invalid bytes
// become '?'. Newlines and tabs become spaces.
std::string printable(std::string_view text, size_t max_bytes);

}  // namespace sporkle::mesh
