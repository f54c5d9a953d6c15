// The terminal: what it can do, text measured in columns, and a block of lines that is drawn again in place.
//
// The free functions are thread-safe; a Terminal belongs to one thread at a time.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sporkle {

enum class Colour { plain, bold, dim, red, green, yellow, blue, magenta, cyan };

// `text` between the escape sequences of a colour; unchanged when `enabled` is false.
std::string paint(std::string_view text, Colour colour, bool enabled);

// `text` without control characters, escape sequences and malformed UTF-8 (each becomes one space, or U+FFFD), so that
// text from a model, a file or a peer cannot drive the terminal. Tabs and line ends become spaces.
std::string printable(std::string_view text);

// How many columns `text` takes: colours count nothing, East Asian and emoji characters two, combining marks none.
int display_width(std::string_view text);

// `text` cut to at most `width` columns, its last one "…" when something was cut; colours are closed.
std::string cut_to_width(std::string_view text, int width);
// The same, then filled with spaces to exactly `width` columns, on the right or on the left.
std::string pad_right(std::string_view text, int width);
std::string pad_left(std::string_view text, int width);

// `text` in lines of at most `width` columns, broken at spaces where possible; line ends in it stay.
std::vector<std::string> wrap(std::string_view text, int width);

class Terminal {
 public:
  // `file_descriptor` stays the caller's: 1 for standard output.
  explicit Terminal(int file_descriptor);

  // Whether it is a terminal that can move its cursor (TERM is not "dumb").
  bool interactive() const { return interactive_; }
  // Interactive, and NO_COLOR is not set (https://no-color.org).
  bool colour() const { return colour_; }
  // Its size now, in columns and lines; 80 x 24 where it has none.
  int width() const;
  int height() const;

  // Draws `lines` over those of the previous redraw, cut to the terminal's size. Does nothing unless interactive.
  void redraw(std::span<const std::string> lines);
  // Prints a line above the redrawn block, where it stays.
  void print(std::string_view line);
  // Leaves the block where it is; the next redraw starts a new one.
  void release() { block_.clear(); }

 private:
  std::string erase_block() const;
  void draw_block(std::string output);

  int file_descriptor_;
  bool interactive_;
  bool colour_;
  std::vector<std::string> block_;
};

}  // namespace sporkle
