#include "bench/svg.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace sporkle::bench {
namespace {

TEST(Svg, MarkupIsSafe) {
  EXPECT_EQ(markup("a<b> & \"c\" 'd'"), "a&lt;b&gt; &amp; &quot;c&quot; &#39;d&#39;");
  EXPECT_EQ(markup(std::string_view("\x01\xff\x00", 3)), "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
  EXPECT_EQ(markup("\xEF\xBF\xBF µ"), "\xEF\xBF\xBD µ");
}

TEST(Svg, NumbersAreShort) {
  EXPECT_EQ(short_number(0.25), "0.25");
  EXPECT_EQ(short_number(83.6612), "83.66");
  EXPECT_EQ(short_number(12345.6), "12346");
  EXPECT_EQ(short_number(1.5e-7), "1.5e-07");
}

TEST(Svg, AxesHoldTheirValuesAndHaveTicks) {
  for (const bool logarithmic : {false, true}) {
    for (const std::vector<double>& values :
         {std::vector<double>{1, 1000}, {5}, {0.9, 1, 1.1}, {1e-9, 1e9}, {1e15, 1e15 + 1}}) {
      const Axis axis = axis_over(values, 100, 500, logarithmic);
      for (const double value : values) {
        EXPECT_GE(axis.pixel(value), 100);
        EXPECT_LE(axis.pixel(value), 500);
      }
      const std::vector<double> ticks = axis.ticks(6);
      EXPECT_LE(ticks.size(), 13u);
      EXPECT_TRUE(std::ranges::is_sorted(ticks));
      for (const double tick : ticks) EXPECT_TRUE(tick >= axis.first && tick <= axis.last) << tick;
    }
  }
  EXPECT_EQ((Axis{0, 10, 0, 100, false}.ticks(5)), (std::vector<double>{0, 2, 4, 6, 8, 10}));
  EXPECT_NEAR((Axis{1, 100, 0, 100, true}.pixel(10)), 50, 1e-9);
}

}  // namespace
}  // namespace sporkle::bench
