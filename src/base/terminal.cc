#include "base/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdlib>

#include "base/utf8.h"

namespace sporkle {
namespace {

constexpr std::string_view kReset = "\x1b[0m";

// The length of the escape sequence ("\x1b[...m" or another CSI) that `text` starts with, else 0.
size_t escape_length(std::string_view text) {
  if (text.size() < 2 || text[0] != '\x1b' || text[1] != '[') return 0;
  for (size_t i = 2; i < text.size(); ++i) {
    if (text[i] >= 0x40 && text[i] <= 0x7E) return i + 1;
  }
  return 0;
}

uint32_t code_point(std::string_view character) {
  if (character.size() == 1) return static_cast<uint8_t>(character[0]);
  uint32_t value = static_cast<uint8_t>(character[0]) & (0xFF >> (character.size() + 1));
  for (char c : character.substr(1)) value = value << 6 | (static_cast<uint8_t>(c) & 0x3F);
  return value;
}

struct Range {
  uint32_t first, last;
};
// What terminals draw over the character before, and what they draw two columns wide (Unicode's East Asian Width W, F).
constexpr Range kZeroWidth[] = {{0x300, 0x36F}, {0x200B, 0x200F}, {0x20D0, 0x20FF}, {0xFE00, 0xFE0F}};
constexpr Range kDoubleWidth[] = {{0x1100, 0x115F},   {0x2E80, 0x303E},   {0x3041, 0xA4CF},   {0xAC00, 0xD7A3},
                                  {0xF900, 0xFAFF},   {0xFE30, 0xFE6F},   {0xFF00, 0xFF60},   {0xFFE0, 0xFFE6},
                                  {0x1F300, 0x1F64F}, {0x1F680, 0x1F6FF}, {0x1F900, 0x1FAFF}, {0x20000, 0x3FFFD}};

bool within(std::span<const Range> ranges, uint32_t value) {
  return std::any_of(ranges.begin(), ranges.end(), [&](Range r) { return r.first <= value && value <= r.last; });
}

// One piece of a line: an escape sequence (no columns), or a character.
struct Piece {
  std::string_view text;
  int width;
};

Piece first_piece(std::string_view text) {
  if (const size_t escape = escape_length(text)) return {text.substr(0, escape), 0};
  const size_t length = utf8_character_length(text);
  if (length == 0) return {text.substr(0, 1), 1};  // terminals show one replacement character
  const uint32_t value = code_point(text.substr(0, length));
  const bool control = value < 0x20 || (value >= 0x7F && value < 0xA0);
  const int width = control || within(kZeroWidth, value) ? 0 : within(kDoubleWidth, value) ? 2 : 1;
  return {text.substr(0, length), width};
}

winsize window(int file_descriptor) {
  winsize size{};
  if (ioctl(file_descriptor, TIOCGWINSZ, &size) != 0 || size.ws_col == 0 || size.ws_row == 0) {
    size.ws_col = 80;
    size.ws_row = 24;
  }
  return size;
}

void write_all(int file_descriptor, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(file_descriptor, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;  // a terminal that went away is no failure of the program
    text.remove_prefix(static_cast<size_t>(written));
  }
}

}  // namespace

std::string paint(std::string_view text, Colour colour, bool enabled) {
  static constexpr std::string_view kCodes[] = {"", "1", "2", "31", "32", "33", "34", "35", "36"};
  if (!enabled || colour == Colour::plain || text.empty()) return std::string(text);
  std::string out = "\x1b[";
  out.append(kCodes[static_cast<size_t>(colour)]).append("m").append(text).append(kReset);
  return out;
}

std::string printable(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    size_t length = escape_length(text);
    if (length != 0) {
      out += ' ';
    } else if (length = utf8_character_length(text); length == 0) {
      out += "\uFFFD";
      length = 1;
    } else {
      const uint32_t value = code_point(text.substr(0, length));
      if (value < 0x20 || (value >= 0x7F && value < 0xA0)) {
        out += ' ';
      } else {
        out += text.substr(0, length);
      }
    }
    text.remove_prefix(length);
  }
  return out;
}

int display_width(std::string_view text) {
  int width = 0;
  while (!text.empty()) {
    const Piece piece = first_piece(text);
    width += piece.width;
    text.remove_prefix(piece.text.size());
  }
  return width;
}

std::string cut_to_width(std::string_view text, int width) {
  if (display_width(text) <= width) return std::string(text);
  std::string out;
  int used = 0;
  bool coloured = false;
  while (!text.empty()) {
    const Piece piece = first_piece(text);
    if (used + piece.width > width - 1) break;  // the last column is for the mark
    if (piece.text[0] == '\x1b') coloured = piece.text != kReset;
    out += piece.text;
    used += piece.width;
    text.remove_prefix(piece.text.size());
  }
  if (width > 0) out += "…";
  if (coloured) out += kReset;
  return out;
}

std::string pad_right(std::string_view text, int width) {
  std::string out = cut_to_width(text, width);
  out.append(static_cast<size_t>(std::max(0, width - display_width(out))), ' ');
  return out;
}

std::string pad_left(std::string_view text, int width) {
  const std::string cut = cut_to_width(text, width);
  return std::string(static_cast<size_t>(std::max(0, width - display_width(cut))), ' ') + cut;
}

std::vector<std::string> wrap(std::string_view text, int width) {
  width = std::max(width, 1);
  std::vector<std::string> lines;
  std::string line;
  int used = 0;
  const auto end_line = [&] {
    lines.push_back(std::move(line));
    line.clear();
    used = 0;
  };
  while (!text.empty()) {
    if (text[0] == '\n') {
      end_line();
      text.remove_prefix(1);
      continue;
    }
    // A word with the spaces before it.
    const size_t word_begin = std::min(text.find_first_not_of(' '), text.size());
    const size_t word_end = std::min(text.find_first_of(" \n", word_begin), text.size());
    std::string_view word = text.substr(0, word_end);
    text.remove_prefix(word_end);
    if (used > 0 && used + display_width(word) > width) {
      end_line();
      word.remove_prefix(word_begin);
    }
    while (!word.empty()) {  // a word longer than a line is broken anywhere
      const Piece piece = first_piece(word);
      if (used > 0 && used + piece.width > width) end_line();
      line += piece.text;
      used += piece.width;
      word.remove_prefix(piece.text.size());
    }
  }
  if (!line.empty() || lines.empty()) end_line();
  return lines;
}

Terminal::Terminal(int file_descriptor) : file_descriptor_(file_descriptor) {
  const char* kind = std::getenv("TERM");
  interactive_ = isatty(file_descriptor) && kind && std::string_view(kind) != "dumb" && *kind != '\0';
  const char* no_colour = std::getenv("NO_COLOR");
  colour_ = interactive_ && !(no_colour && *no_colour != '\0');
}

int Terminal::width() const { return window(file_descriptor_).ws_col; }
int Terminal::height() const { return window(file_descriptor_).ws_row; }

std::string Terminal::erase_block() const {
  if (block_.empty()) return {};
  return "\x1b[" + std::to_string(block_.size()) + "A\r\x1b[J";
}

void Terminal::draw_block(std::string output) {
  for (const std::string& line : block_) output += line + "\n";
  write_all(file_descriptor_, output);  // one write, so that no half-drawn picture shows
}

void Terminal::redraw(std::span<const std::string> lines) {
  if (!interactive_) return;
  // The cursor waits below the block. Lines are overwritten rather than erased first, which would flicker.
  std::string output;
  if (!block_.empty()) output = "\x1b[" + std::to_string(block_.size()) + "A\r";
  const winsize size = window(file_descriptor_);
  const size_t count = std::min(lines.size(), static_cast<size_t>(std::max(1, size.ws_row - 1)));
  block_.clear();
  for (const std::string& line : lines.first(count)) {
    block_.push_back(cut_to_width(line, size.ws_col));
    output += block_.back() + "\x1b[K\n";
  }
  write_all(file_descriptor_, output + "\x1b[J");
}

void Terminal::print(std::string_view line) { draw_block(erase_block() + std::string(line) + "\n"); }

}  // namespace sporkle
