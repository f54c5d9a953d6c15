#include "mesh/base32.h"

#include <cstdint>

namespace sporkle::mesh {
namespace {

constexpr std::string_view alphabet = "abcdefghijklmnopqrstuvwxyz234567";

int digit_value(char c) {
  if (c >= 'a' && c <= 'z') return c - 'a';
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= '2' && c <= '7') return c - '2' + 26;
  return -1;
}

}  // namespace

std::string to_base32(std::span<const std::byte> data) {
  std::string text;
  text.reserve((data.size() * 8 + 4) / 5);
  uint32_t bits = 0;
  int count = 0;
  for (const std::byte b : data) {
    bits = bits << 8 | std::to_integer<uint32_t>(b);
    count += 8;
    for (; count >= 5; count -= 5) text += alphabet[bits >> (count - 5) & 31];
  }
  if (count > 0) text += alphabet[bits << (5 - count) & 31];
  return text;
}

bool from_base32(std::string_view text, std::span<std::byte> out) {
  if (text.size() != (out.size() * 8 + 4) / 5) return false;
  uint32_t bits = 0;
  int count = 0;
  size_t filled = 0;
  for (const char c : text) {
    const int value = digit_value(c);
    if (value < 0) return false;
    bits = bits << 5 | static_cast<uint32_t>(value);
    count += 5;
    if (count >= 8) {
      count -= 8;
      out[filled++] = static_cast<std::byte>(bits >> count & 255);
    }
  }
  return (bits & ((1u << count) - 1)) == 0;
}

}  // namespace sporkle::mesh
