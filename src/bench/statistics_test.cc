#include "bench/statistics.h"

#include <gtest/gtest.h>

#include <vector>

namespace sporkle::bench {
namespace {

TEST(Statistics, QuantilesLieBetweenNeighbours) {
  const std::vector<double> values = {4, 1, 3, 2};
  EXPECT_EQ(median(values), 2.5);
  EXPECT_EQ(quantile(values, 0), 1);
  EXPECT_EQ(quantile(values, 1), 4);
  EXPECT_EQ(quantile(values, 0.25), 1.75);
  EXPECT_EQ(median(std::vector<double>{7}), 7);
  EXPECT_EQ(median(std::vector<double>{9, 1, 5}), 5);
}

TEST(Statistics, NoiseIsHalfTheInterquartileRangeOverTheMedian) {
  EXPECT_EQ(relative_noise(std::vector<double>{100, 90, 110, 80, 120}), 0.1);
  EXPECT_EQ(relative_noise(std::vector<double>{5, 5, 5}), 0);
  EXPECT_EQ(relative_noise(std::vector<double>{5}), 0);
  EXPECT_EQ(relative_noise(std::vector<double>{0, 0, 0}), 0);
  // One outlier says nothing about a typical round.
  EXPECT_EQ(relative_noise(std::vector<double>{10, 10, 10, 10, 1000}), 0);
}

}  // namespace
}  // namespace sporkle::bench
