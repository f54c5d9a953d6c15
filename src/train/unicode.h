// UTF-8: validation, decoding, and the character classes that pre-tokenisation needs. Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace sporkle::train {

// The offset of the first byte that is not part of well-formed UTF-8 (RFC 3629: no surrogates, no overlong forms).
std::optional<size_t> find_invalid_utf8(std::string_view text);

struct CodePoint {
  uint32_t value = 0;  // U+FFFD for a byte that begins no well-formed character
  uint32_t size = 0;   // in bytes; 1 for such a byte
  bool valid = true;
};
// The character that begins at `offset`, which must be inside the text.
CodePoint decode_utf8(std::string_view text, size_t offset);
void append_utf8(std::string& text, uint32_t code_point);

// \p{L}, \p{N}, \s (White_Space) and the rest, as the GPT-2 pattern tells them apart.
enum class CharacterClass : uint8_t { letter, number, space, other };
CharacterClass character_class(uint32_t code_point);

// Turns bytes that arrive in pieces into whole characters: a character is held back until its last byte is here.
class Utf8Stream {
 public:
  // The text that `bytes` completed; malformed bytes become U+FFFD.
  std::string push(std::string_view bytes);
  // What is still held back at the end, as U+FFFD, or "".
  std::string finish();

 private:
  std::string pending_;
};

}  // namespace sporkle::train
