#include "base/plot.h"

#include <gtest/gtest.h>

#include <cmath>

namespace sporkle {
namespace {

PlotSeries falling() {
  PlotSeries series{"train", Colour::green, {}};
  for (int i = 0; i <= 1000; ++i) series.points.emplace_back(i, 5.5 - 0.004 * i);
  return series;
}

bool has_dots(const std::string& text) {
  return text.find("\xE2\xA0") != std::string::npos || text.find("\xE2\xA1") != std::string::npos ||
         text.find("\xE2\xA2") != std::string::npos || text.find("\xE2\xA3") != std::string::npos;
}

TEST(Plot, HasTheSizeThatWasAsked) {
  for (const auto& [width, height] : {std::pair{24, 6}, {72, 12}, {119, 30}}) {
    for (bool colour : {false, true}) {
      const std::vector<PlotSeries> series{falling()};
      const auto lines = plot(series, {width, height, "tokens", colour});
      ASSERT_EQ(lines.size(), static_cast<size_t>(height));
      for (const std::string& line : lines) EXPECT_EQ(display_width(line), width) << line;
    }
  }
}

TEST(Plot, LabelsItsAxesAndSeries) {
  const std::vector<PlotSeries> series{falling(), {"validation", Colour::cyan, {{0, 6}, {1000, 2}}}};
  const auto lines = plot(series, {72, 12, "steps", false});
  EXPECT_NE(lines[0].find("train"), std::string::npos);
  EXPECT_NE(lines[0].find("validation"), std::string::npos);
  EXPECT_NE(lines[1].find("6.00 ┤"), std::string::npos) << lines[1];
  EXPECT_NE(lines[9].find("1.50 ┤"), std::string::npos) << lines[9];
  EXPECT_NE(lines[11].find("steps"), std::string::npos);
  EXPECT_NE(lines[11].find("1.00k"), std::string::npos);
}

TEST(Plot, AFallingCurveFalls) {
  const std::vector<PlotSeries> series{falling()};
  const auto lines = plot(series, {72, 12, "", false});
  const std::string& top = lines[1];
  const std::string& bottom = lines[9];
  // Dots on the left at the top, on the right at the bottom.
  EXPECT_TRUE(has_dots(top.substr(0, 40)));
  EXPECT_EQ(top.back(), ' ');
  EXPECT_TRUE(has_dots(bottom.substr(bottom.size() - 6)));
  EXPECT_FALSE(has_dots(bottom.substr(0, 40)));
}

TEST(Plot, SurvivesOddData) {
  const double nan = std::nan("");
  const std::vector<std::vector<std::pair<double, double>>> cases{{},
                                                                  {{1, 1}},
                                                                  {{1, nan}, {nan, 1}},
                                                                  {{0, 1}, {1, 1}, {2, 1}},
                                                                  {{0, 1}, {1, HUGE_VAL}, {2, 3}},
                                                                  {{5, 1e9}, {6, -1e9}}};
  for (const auto& points : cases) {
    const std::vector<PlotSeries> series{{"a", Colour::red, points}};
    const auto lines = plot(series, {40, 8, "x", true});
    ASSERT_EQ(lines.size(), 8u);
    for (const std::string& line : lines) EXPECT_EQ(display_width(line), 40) << line;
  }
  EXPECT_EQ(plot({}, {40, 8, "", false}).size(), 8u);
}

TEST(Plot, ASinglePointShows) {
  const std::vector<PlotSeries> series{{"a", Colour::red, {{1, 1}}}};
  bool found = false;
  for (const std::string& line : plot(series, {40, 8, "", false})) found |= has_dots(line);
  EXPECT_TRUE(found);
}

TEST(Plot, ColoursOnlyWhenAsked) {
  const std::vector<PlotSeries> series{falling()};
  for (const std::string& line : plot(series, {40, 8, "x", false})) EXPECT_EQ(line.find('\x1b'), std::string::npos);
  EXPECT_NE(plot(series, {40, 8, "x", true})[1].find("\x1b[32m"), std::string::npos);
}

}  // namespace
}  // namespace sporkle
