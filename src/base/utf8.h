// UTF-8, as far as printing needs it. Thread-safe.
#pragma once

#include <cstddef>
#include <string_view>

namespace sporkle {

// The length in bytes (1 to 4) of the well-formed character that `text` starts with; 0 when it starts with none (as an
// overlong form, a surrogate, a value past U+10FFFF, a cut-off character, or nothing at all).
size_t utf8_character_length(std::string_view text);

}  // namespace sporkle
