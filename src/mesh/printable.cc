#include "mesh/printable.h"

#include <cstdint>

namespace sporkle::mesh {
namespace {

// The length of the valid UTF-8 sequence at the start of `text`, 0 when there is none; its code point in `point`.
size_t decode_utf8(std::string_view text, uint32_t& point) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) {
    point = lead;
    return 1;
  }
  const size_t length = lead >= 0xF0 && lead <= 0xF4 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC2 ? 2 : 0;
  if (length == 0 || lead > 0xF4 || text.size() < length) return 0;
  point = lead & (0x7Fu >> length);
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
    point = point << 6 | (byte(i) & 0x3Fu);
  }
  constexpr uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = point >= 0xD800 && point <= 0xDFFF;
  return point < smallest[length] || point > 0x10FFFF || surrogate ? 0 : length;
}

bool is_control(uint32_t point) {
  const bool bidirectional_override = (point >= 0x202A && point <= 0x202E) || (point >= 0x2066 && point <= 0x2069);
  return point < 0x20 || (point >= 0x7F && point < 0xA0) || bidirectional_override;
}

}  // namespace

std::string printable(std::string_view text, size_t max_bytes) {
  std::string out;
  while (!text.empty()) {
    uint32_t point = 0;
    size_t length = decode_utf8(text, point);
    std::string_view piece = text.substr(0, length);
    if (text[0] == '\n' || text[0] == '\t') {
      piece = " ";
    } else if (length == 0 || is_control(point)) {
      piece = "?";
    }
    if (length == 0) length = 1;
    if (out.size() + piece.size() > max_bytes) break;
    out += piece;
    text.remove_prefix(length);
  }
  return out;
}

}  // namespace sporkle::mesh
