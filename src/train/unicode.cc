#include "train/unicode.h"

#include <utf8proc.h>

#include <array>
#include <cstring>

#include "base/utf8.h"

namespace sporkle::train {
namespace {

constexpr CodePoint kMalformed{0xFFFD, 1, false};

uint32_t byte_at(std::string_view text, size_t offset) { return static_cast<unsigned char>(text[offset]); }

// Whether `text` is the beginning of a well-formed character and not yet the whole.
bool is_incomplete(std::string_view text) {
  for (const char fill : {'\x80', '\xBF'}) {
    std::string padded(text.substr(0, 4));
    padded.resize(4, fill);
    if (utf8_character_length(padded) > text.size()) return true;
  }
  return false;
}

CharacterClass classify(uint32_t code_point) {
  if (code_point == ' ' || (code_point >= 9 && code_point <= 13)) return CharacterClass::space;
  if (code_point == 0x85) return CharacterClass::space;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code_point))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
      return CharacterClass::letter;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
      return CharacterClass::number;
    // White_Space beyond the controls above is exactly the separators.
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return CharacterClass::space;
    default:
      return CharacterClass::other;
  }
}

}  // namespace

CodePoint decode_utf8(std::string_view text, size_t offset) {
  const uint32_t lead = byte_at(text, offset);
  if (lead < 0x80) return {lead, 1, true};
  const auto size = static_cast<uint32_t>(utf8_character_length(text.substr(offset)));
  if (size == 0) return kMalformed;
  uint32_t value = lead & (0x7Fu >> size);
  for (uint32_t i = 1; i < size; ++i) value = value << 6 | (byte_at(text, offset + i) & 0x3F);
  return {value, size, true};
}

std::optional<size_t> find_invalid_utf8(std::string_view text) {
  size_t offset = 0;
  while (offset < text.size()) {
    uint64_t eight;
    if (offset + sizeof eight <= text.size()) {
      std::memcpy(&eight, text.data() + offset, sizeof eight);
      if ((eight & 0x8080808080808080u) == 0) {
        offset += sizeof eight;
        continue;
      }
    }
    const CodePoint character = decode_utf8(text, offset);
    if (!character.valid) return offset;
    offset += character.size;
  }
  return std::nullopt;
}

void append_utf8(std::string& text, uint32_t code_point) {
  const auto put = [&](uint32_t byte) { text.push_back(static_cast<char>(byte)); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0 | code_point >> 6);
    put(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    put(0xE0 | code_point >> 12);
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  } else {
    put(0xF0 | code_point >> 18);
    put(0x80 | (code_point >> 12 & 0x3F));
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  }
}

CharacterClass character_class(uint32_t code_point) {
  static const std::array<CharacterClass, 256> first = [] {
    std::array<CharacterClass, 256> classes{};
    for (uint32_t i = 0; i < classes.size(); ++i) classes[i] = classify(i);
    return classes;
  }();
  return code_point < first.size() ? first[code_point] : classify(code_point);
}

std::string Utf8Stream::push(std::string_view bytes) {
  pending_.append(bytes);
  std::string whole;
  size_t offset = 0;
  while (offset < pending_.size()) {
    const CodePoint character = decode_utf8(pending_, offset);
    if (character.valid) {
      whole.append(pending_, offset, character.size);
    } else if (is_incomplete(std::string_view(pending_).substr(offset))) {
      break;
    } else {
      append_utf8(whole, 0xFFFD);
    }
    offset += character.size;
  }
  pending_.erase(0, offset);
  return whole;
}

std::string Utf8Stream::finish() {
  std::string rest;
  if (!pending_.empty()) append_utf8(rest, 0xFFFD);
  pending_.clear();
  return rest;
}

}  // namespace sporkle::train
