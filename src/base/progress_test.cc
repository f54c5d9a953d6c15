#include "base/progress.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>

namespace sporkle {
namespace {

TEST(SpeedEstimate, FollowsASteadySpeed) {
  SpeedEstimate speed;
  EXPECT_FALSE(speed.remaining_s(100).has_value());
  for (int second = 0; second <= 10; ++second) speed.update(5.0 * second, second);
  EXPECT_NEAR(speed.per_second(), 5, 1e-9);
  EXPECT_NEAR(speed.remaining_s(100).value(), 10, 1e-9);
  EXPECT_EQ(speed.remaining_s(20).value(), 0);
}

TEST(SpeedEstimate, ForgetsAnOldSpeed) {
  SpeedEstimate speed(10);
  speed.update(0, 0);
  speed.update(1000, 10);
  for (int second = 11; second <= 110; ++second) speed.update(1000 + second, second);
  EXPECT_NEAR(speed.per_second(), 1, 0.02);
}

TEST(SpeedEstimate, IgnoresAClockThatStands) {
  SpeedEstimate speed;
  speed.update(0, 1);
  speed.update(5, 1);
  EXPECT_EQ(speed.per_second(), 0);
}

TEST(ProgressBar, FillsItsWidth) {
  EXPECT_EQ(progress_bar(0, 4), "░░░░");
  EXPECT_EQ(progress_bar(0.5, 4), "██░░");
  EXPECT_EQ(progress_bar(0.625, 4), "██▌░");
  EXPECT_EQ(progress_bar(1, 4), "████");
  EXPECT_EQ(progress_bar(7, 2), "██");
  EXPECT_EQ(progress_bar(std::nan(""), 2), "░░");
}

// Progress over a pipe, with a clock that the test moves.
class ProgressTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_EQ(pipe(ends_), 0); }
  void TearDown() override {
    close(ends_[0]);
    if (ends_[1] >= 0) close(ends_[1]);
  }
  std::string written() {
    close(ends_[1]);
    ends_[1] = -1;
    char buffer[4096];
    const ssize_t length = read(ends_[0], buffer, sizeof buffer);
    return length > 0 ? std::string(buffer, static_cast<size_t>(length)) : "";
  }
  ProgressOptions options() {
    ProgressOptions options;
    options.now_s = [this] { return now_s_; };
    return options;
  }
  int ends_[2] = {-1, -1};
  double now_s_ = 100;
};

TEST_F(ProgressTest, PrintsALineNowAndThen) {
  Terminal terminal(ends_[1]);
  Progress progress(&terminal, "reading", 100, options());
  for (int i = 1; i <= 100; ++i) {
    now_s_ += 0.25;
    progress.update(i, "x.txt");
  }
  progress.finish("done well");
  EXPECT_EQ(written(), "reading  40%  15s left  x.txt\nreading  80%  5.0s left  x.txt\nreading took 25s: done well\n");
}

TEST_F(ProgressTest, IsQuietWhenAsked) {
  Terminal terminal(ends_[1]);
  ProgressOptions quiet = options();
  quiet.quiet = true;
  Progress progress(&terminal, "reading", 100, quiet);
  now_s_ += 60;
  progress.update(50);
  progress.finish();
  EXPECT_EQ(written(), "");
}

}  // namespace
}  // namespace sporkle
