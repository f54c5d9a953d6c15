#include "base/terminal.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <pty.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

namespace sporkle {
namespace {

TEST(Paint, WrapsOnlyWhenEnabled) {
  EXPECT_EQ(paint("a", Colour::red, true), "\x1b[31ma\x1b[0m");
  EXPECT_EQ(paint("a", Colour::red, false), "a");
  EXPECT_EQ(paint("a", Colour::plain, true), "a");
}

TEST(Printable, TakesAwayWhatDrivesTheTerminal) {
  EXPECT_EQ(printable("plain é€😀"), "plain é€😀");
  EXPECT_EQ(printable("a\x1b[2Jb\nc\td\x07"), "a b c d ");
  EXPECT_EQ(printable("a\x1b]0;t"), "a ]0;t");
  EXPECT_EQ(printable("\xff\xc2\x9b!"), "\uFFFD !");
}

TEST(DisplayWidth, CountsColumns) {
  EXPECT_EQ(display_width(""), 0);
  EXPECT_EQ(display_width("abc"), 3);
  EXPECT_EQ(display_width("é⣿█"), 3);
  EXPECT_EQ(display_width("日本"), 4);
  EXPECT_EQ(display_width("e\u0301"), 1);
  EXPECT_EQ(display_width(paint("abc", Colour::green, true)), 3);
}

TEST(Fitting, CutsAndPads) {
  EXPECT_EQ(cut_to_width("abcdef", 6), "abcdef");
  EXPECT_EQ(cut_to_width("abcdef", 4), "abc…");
  EXPECT_EQ(cut_to_width("abcdef", 0), "");
  EXPECT_EQ(cut_to_width("日本語", 4), "日…");
  EXPECT_EQ(cut_to_width(paint("abcdef", Colour::red, true), 3), "\x1b[31mab…\x1b[0m");
  EXPECT_EQ(pad_right("ab", 4), "ab  ");
  EXPECT_EQ(pad_left("ab", 4), "  ab");
  EXPECT_EQ(pad_left("abcdef", 4), "abc…");
}

TEST(Wrap, BreaksAtSpacesAndKeepsLineEnds) {
  EXPECT_EQ(wrap("in the beginning God", 10), (std::vector<std::string>{"in the", "beginning", "God"}));
  EXPECT_EQ(wrap("a\n\nb", 10), (std::vector<std::string>{"a", "", "b"}));
  EXPECT_EQ(wrap("abcdefgh", 3), (std::vector<std::string>{"abc", "def", "gh"}));
  EXPECT_EQ(wrap("", 3), (std::vector<std::string>{""}));
}

// A pseudo-terminal of 20 x 6, and what was written to it since the last call.
class TerminalTest : public testing::Test {
 protected:
  void SetUp() override {
    winsize size{};
    size.ws_col = 20;
    size.ws_row = 6;
    ASSERT_EQ(openpty(&ours_, &theirs_, nullptr, nullptr, &size), 0);
    fcntl(ours_, F_SETFL, O_NONBLOCK);
    setenv("TERM", "xterm", 1);
    unsetenv("NO_COLOR");
  }
  void TearDown() override {
    close(ours_);
    close(theirs_);
  }
  std::string written() {
    char buffer[4096];
    const ssize_t length = read(ours_, buffer, sizeof buffer);
    return length > 0 ? std::string(buffer, static_cast<size_t>(length)) : "";
  }
  int ours_ = -1, theirs_ = -1;
};

TEST_F(TerminalTest, KnowsWhatItCanDo) {
  const Terminal terminal(theirs_);
  EXPECT_TRUE(terminal.interactive());
  EXPECT_TRUE(terminal.colour());
  EXPECT_EQ(terminal.width(), 20);
  EXPECT_EQ(terminal.height(), 6);
  setenv("NO_COLOR", "1", 1);
  EXPECT_FALSE(Terminal(theirs_).colour());
  EXPECT_TRUE(Terminal(theirs_).interactive());
  setenv("TERM", "dumb", 1);
  EXPECT_FALSE(Terminal(theirs_).interactive());
}

TEST_F(TerminalTest, RedrawsInPlaceWithinItsSize) {
  Terminal terminal(theirs_);
  terminal.redraw(std::vector<std::string>{"one", "two"});
  EXPECT_EQ(written(), "one\x1b[K\r\ntwo\x1b[K\r\n\x1b[J");
  terminal.redraw(std::vector<std::string>{"a line of more than twenty columns"});
  EXPECT_EQ(written(), "\x1b[2A\ra line of more than…\x1b[K\r\n\x1b[J");
  terminal.print("above");
  EXPECT_EQ(written(), "\x1b[1A\r\x1b[Jabove\r\na line of more than…\r\n");
  terminal.release();
  terminal.redraw(std::vector<std::string>(10, "x"));  // more lines than the terminal has
  const std::string text = written();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 5);
  EXPECT_EQ(text.find('A'), std::string::npos);
}

TEST(TerminalOnAFile, DrawsNothingAndPrintsPlainLines) {
  int pipe_ends[2];
  ASSERT_EQ(pipe(pipe_ends), 0);
  Terminal terminal(pipe_ends[1]);
  EXPECT_FALSE(terminal.interactive());
  EXPECT_FALSE(terminal.colour());
  EXPECT_EQ(terminal.width(), 80);
  terminal.redraw(std::vector<std::string>{"one"});
  terminal.print("two");
  close(pipe_ends[1]);
  char buffer[64];
  const ssize_t length = read(pipe_ends[0], buffer, sizeof buffer);
  EXPECT_EQ(std::string(buffer, static_cast<size_t>(length)), "two\n");
  close(pipe_ends[0]);
}

}  // namespace
}  // namespace sporkle
