#include "nn/schedule.h"

#include <gtest/gtest.h>

#include <cmath>

namespace sporkle::nn {
namespace {

TEST(ScheduleTest, WarmsUpThenFallsAlongACosine) {
  const LearningRateSchedule schedule{.peak = 1.0, .minimum = 0.1, .warmup_steps = 10, .total_steps = 110};
  EXPECT_GT(schedule.at(0), 0.0);
  for (int step = 1; step < 10; ++step) EXPECT_GT(schedule.at(step), schedule.at(step - 1));
  EXPECT_DOUBLE_EQ(schedule.at(10), 1.0);
  EXPECT_NEAR(schedule.at(60), 0.55, 1e-12);
  EXPECT_NEAR(schedule.at(35), 0.1 + 0.9 * 0.5 * (1 + std::cos(M_PI / 4)), 1e-12);
  EXPECT_NEAR(schedule.at(110), 0.1, 1e-12);
  EXPECT_NEAR(schedule.at(1000), 0.1, 1e-12);
  for (double step = 10; step < 110; step += 0.5) EXPECT_GT(schedule.at(step), schedule.at(step + 0.5));
}

TEST(ScheduleTest, ItsCosineIsAccurate) {
  for (double x = 0; x <= 1; x += 1.0 / 64) EXPECT_NEAR(cos_pi(x), std::cos(M_PI * x), 1e-15);
}

}  // namespace
}  // namespace sporkle::nn
