#include "run/round_plan.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

namespace sporkle::run {
namespace {

TEST(RoundPlan, StepsFollowSpeed) {
  EXPECT_EQ(divide_steps(80, std::vector<double>{10, 10, 5, 15}), (std::vector<uint32_t>{20, 20, 10, 30}));
  EXPECT_EQ(divide_steps(10, std::vector<double>{1, 1, 1}), (std::vector<uint32_t>{4, 3, 3}));
}

TEST(RoundPlan, EverybodyGetsAStep) {
  EXPECT_EQ(divide_steps(10, std::vector<double>{1000, 1, 1}), (std::vector<uint32_t>{8, 1, 1}));
  EXPECT_EQ(divide_steps(2, std::vector<double>{1, 3, 2}), (std::vector<uint32_t>{0, 1, 1}));
  EXPECT_TRUE(divide_steps(10, {}).empty());
}

TEST(RoundPlan, UnknownSpeedsAreTakenAsTypical) {
  EXPECT_EQ(divide_steps(30, std::vector<double>{0, 10, 10}), (std::vector<uint32_t>{10, 10, 10}));
  EXPECT_EQ(divide_steps(8, std::vector<double>{0, 0}), (std::vector<uint32_t>{4, 4}));
}

TEST(RoundPlan, TheSumIsAlwaysTheTotal) {
  for (uint64_t total = 1; total < 400; total += 13) {
    const std::vector<double> speeds = {3.7, 0.01, 12.5, 0, 1e6, 2.2, 2.2};
    const auto steps = divide_steps(total, speeds);
    EXPECT_EQ(std::accumulate(steps.begin(), steps.end(), uint64_t{0}), total);
  }
}

TEST(RoundPlan, NormsOfShortAndLongUpdatesCompare) {
  EXPECT_DOUBLE_EQ(comparable_norm(3, 1), 3);
  EXPECT_DOUBLE_EQ(comparable_norm(8, 16), 1);
  // Coherent or random, a hundred steps do not look far from one.
  EXPECT_LT(comparable_norm(100, 100), 3.2);
  EXPECT_GT(comparable_norm(10, 100), 0.31);
  EXPECT_EQ(median({3, 1, 2}), 2);
  EXPECT_EQ(median({}), 0);
}

}  // namespace
}  // namespace sporkle::run
