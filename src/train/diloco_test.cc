#include "train/diloco.h"

#include <gtest/gtest.h>

#include <cmath>

namespace sporkle::train {
namespace {

TEST(Diloco, PseudoGradientIsStartMinusEnd) {
  const std::vector<float> start = {1, 2, 3}, end = {0.5f, 2, 5};
  std::vector<float> result(3);
  pseudo_gradient(start, end, result);
  EXPECT_EQ(result, (std::vector<float>{0.5f, 0, -2}));
  EXPECT_DOUBLE_EQ(l2_norm(result), std::sqrt(4.25));
}

TEST(Diloco, MeanIsWeightedByTokens) {
  WeightedMean mean(2, 400);
  mean.add(std::vector<float>{4, 0}, 100);
  mean.add(std::vector<float>{0, 8}, 300);
  EXPECT_EQ(mean.mean()[0], 1.0f);
  EXPECT_EQ(mean.mean()[1], 6.0f);
}

TEST(Diloco, WithoutMomentumTheStepIsPlainAveraging) {
  OuterOptimizer optimizer(2);
  std::vector<float> delta(2);
  for (int i = 0; i < 3; ++i) {
    optimizer.step(std::vector<float>{1, -2}, {1.0f, 0.0f}, delta);
    EXPECT_EQ(delta, (std::vector<float>{-1, 2}));
  }
}

TEST(Diloco, NesterovFollowsItsFormula) {
  OuterOptimizer optimizer(1);
  std::vector<float> delta(1);
  double m = 0;
  for (int i = 1; i <= 5; ++i) {
    const double g = 0.25 * i;
    optimizer.step(std::vector<float>{static_cast<float>(g)}, {0.7f, 0.9f}, delta);
    m = 0.9 * m + g;
    EXPECT_NEAR(delta[0], -0.7 * (g + 0.9 * m), 1e-5);
  }
}

TEST(Diloco, RestoredMomentumGoesOnToTheSameBits) {
  OuterOptimizer a(3), b(3);
  std::vector<float> delta_a(3), delta_b(3);
  const std::vector<float> gradient = {0.1f, 0.2f, 0.3f};
  a.step(gradient, {0.7f, 0.9f}, delta_a);
  ASSERT_TRUE(b.restore(a.momentum()).ok());
  a.step(gradient, {0.7f, 0.9f}, delta_a);
  b.step(gradient, {0.7f, 0.9f}, delta_b);
  EXPECT_EQ(delta_a, delta_b);
  EXPECT_EQ(b.restore(std::vector<float>(2)).code(), Code::invalid_argument);
}

}  // namespace
}  // namespace sporkle::train
