// Training with products in 16 bits follows training in f32.
#include <gtest/gtest.h>

#include <cmath>

#include "train/language_model.h"

namespace sporkle::train {
namespace {

constexpr int kSteps = 200;
constexpr int64_t kRows = 4, kLength = 32, kVocabulary = 64;

struct Curve {
  std::vector<double> losses;
  double last_scale = 1;
};

Curve train(const std::string& numerics, const std::string& precision) {
  OptimizationConfig optimization;
  optimization.numerics = numerics;
  optimization.precision = precision;
  const ModelShape shape{2, 2, 32, kLength, kVocabulary, 1e-5, 0.0};
  auto model = LanguageModel::create(shape, optimization, {"", 1});
  EXPECT_TRUE(model.ok()) << model.status().to_string();
  Curve curve;
  uint32_t state = 1;
  for (int step = 0; step < kSteps; ++step) {
    std::vector<int32_t> inputs, targets;
    for (int64_t row = 0; row < kRows; ++row) {
      auto token = static_cast<int32_t>((state = state * 1664525 + 1013904223) >> 26);
      for (int64_t i = 0; i < kLength; ++i) {
        inputs.push_back(token);
        token = static_cast<int32_t>((5 * token + 17 + ((state = state * 1664525 + 1013904223) >> 31)) % kVocabulary);
        targets.push_back(token);
      }
    }
    const auto result = (*model)->step({inputs, targets, kRows}, 1, 2e-3, {1, static_cast<uint64_t>(step)});
    EXPECT_TRUE(result.ok()) << result.status().to_string();
    if (!result.ok()) break;
    curve.losses.push_back(result->loss);
    curve.last_scale = result->loss_scale;
  }
  return curve;
}

// The bound, on means of 20 steps: 2% of the f32 loss at every point of the curve.
void expect_close(const Curve& found, const Curve& expected) {
  ASSERT_EQ(found.losses.size(), expected.losses.size());
  for (size_t first = 0; first < expected.losses.size(); first += 20) {
    double a = 0, b = 0;
    for (size_t i = first; i < first + 20; ++i) a += found.losses[i] / 20, b += expected.losses[i] / 20;
    EXPECT_NEAR(a, b, 0.02 * b) << "steps from " << first;
  }
}

TEST(MixedPrecisionTraining, LossesFollowThoseOfF32) {
  const Curve f32 = train("strict", "f32"), bf16 = train("fast", "bf16"), f16 = train("fast", "f16");
  ASSERT_EQ(f32.losses.size(), size_t{kSteps});
  EXPECT_LT(f32.losses.back(), 0.7 * f32.losses.front());  // there is something to follow
  expect_close(bf16, f32);
  expect_close(f16, f32);
  EXPECT_NE(bf16.losses, f32.losses);
  EXPECT_EQ(bf16.last_scale, 1);
  EXPECT_GT(f16.last_scale, 1);
}

TEST(MixedPrecisionTraining, AResumedRunGoesOnWithItsLossScale) {
  OptimizationConfig optimization;
  optimization.numerics = "fast";
  optimization.precision = "f16";
  const ModelShape shape{1, 1, 16, 8, 8, 1e-5, 0.0};
  const std::vector<int32_t> tokens(8, 3);
  const auto step = [&](LanguageModel& model) { return model.step({tokens, tokens, 1}, 1, 1e-3, {1, 0}); };
  const auto first = LanguageModel::create(shape, optimization, {"", 1});
  ASSERT_TRUE(first.ok()) << first.status().to_string();
  ASSERT_TRUE(step(**first).ok());
  const auto snapshot = (*first)->snapshot();
  ASSERT_TRUE(snapshot.ok()) << snapshot.status().to_string();
  EXPECT_EQ(snapshot->values.at("good_steps"), 1);

  LoadedTrainingState state{.step = 1, .values = snapshot->values, .tensors = snapshot->optimizer};
  EXPECT_EQ(state.values.at("loss_scale"), 65536);
  state.values["loss_scale"] = 512;
  state.values["good_steps"] = 199;
  const auto second = LanguageModel::create(shape, optimization, {"", 1});
  ASSERT_TRUE(second.ok()) << second.status().to_string();
  ASSERT_TRUE((*second)->restore(state).ok());
  for (const double scale : {512.0, 1024.0}) {  // the 200th good step doubles it
    const auto result = step(**second);
    ASSERT_TRUE(result.ok()) << result.status().to_string();
    EXPECT_EQ(result->loss_scale, scale);
  }
  for (const double scale : {0.5, 3.0, 0x1p25, -1.0}) {
    state.values["loss_scale"] = scale;
    EXPECT_EQ((*second)->restore(state).code(), Code::corrupt_data) << scale;
  }
}

}  // namespace
}  // namespace sporkle::train
