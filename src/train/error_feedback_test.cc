#include "train/error_feedback.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

namespace sporkle::train {
namespace {

std::vector<float> random_values(size_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(static_cast<int32_t>(random() >> 32)) * 0x1p-31f;
  return values;
}

// Sends the same update many times: the mean of what arrives must be the update.
TEST(ErrorFeedback, WhatIsKeptBackArrivesOverTime) {
  struct Case {
    Compression compression;
    int messages;
    double tolerance;  // of a value; without feedback the same part would be lost every time
  };
  const std::vector<float> update = random_values(5000, 3);
  for (const auto& [compression, messages, tolerance] :
       {Case{Compression::none, 2, 1e-7}, Case{Compression::int8, 50, 0.0002}, Case{Compression::int4, 50, 0.003},
        Case{Compression::sign, 4000, 0.03}, Case{Compression::topk, 1000, 0.2}}) {
    ErrorFeedback feedback(update.size());
    std::vector<float> received(update.size(), 0.0f);
    for (int i = 0; i < messages; ++i) {
      const auto message = feedback.encode(update, compression);
      ASSERT_TRUE(message.ok());
      ASSERT_TRUE(decompress_add(*message, received).ok());
      feedback.commit();
    }
    double worst = 0;
    for (size_t i = 0; i < update.size(); ++i)
      worst = std::max(worst, std::fabs(static_cast<double>(received[i]) / messages - update[i]));
    EXPECT_LT(worst, tolerance) << compression_name(compression);
    EXPECT_EQ(worst > 0, compression != Compression::none) << compression_name(compression);
  }
}

TEST(ErrorFeedback, TheFormMayChangeOnTheWay) {
  const std::vector<float> update = random_values(5000, 9);
  ErrorFeedback feedback(update.size());
  std::vector<float> received(update.size(), 0.0f);
  for (const Compression compression :
       {Compression::topk, Compression::sign, Compression::int4, Compression::int8, Compression::none}) {
    ASSERT_TRUE(decompress_add(*feedback.encode(update, compression), received).ok());
    feedback.commit();
  }
  for (size_t i = 0; i < update.size(); ++i) EXPECT_NEAR(received[i], 5 * update[i], 1e-5) << i;
}

TEST(ErrorFeedback, FoldKeepsAllOfIt) {
  const std::vector<float> update = random_values(500, 4);
  ErrorFeedback feedback(update.size());
  ASSERT_TRUE(feedback.encode(update).ok());
  feedback.fold();
  EXPECT_EQ(std::vector<float>(feedback.residual().begin(), feedback.residual().end()), update);
  ASSERT_TRUE(feedback.encode(update).ok());
  feedback.discard();
  EXPECT_EQ(std::vector<float>(feedback.residual().begin(), feedback.residual().end()), update);
  feedback.commit();  // nothing is under way
  feedback.fold();
  EXPECT_EQ(std::vector<float>(feedback.residual().begin(), feedback.residual().end()), update);
  feedback.reset();
  EXPECT_EQ(std::vector<float>(feedback.residual().begin(), feedback.residual().end()), std::vector<float>(500, 0.0f));
}

TEST(ErrorFeedback, SizesMustFit) {
  ErrorFeedback feedback(4);
  EXPECT_EQ(feedback.encode(std::vector<float>(3)).status().code(), Code::invalid_argument);
  EXPECT_EQ(feedback.restore(std::vector<float>(5)).code(), Code::invalid_argument);
  ASSERT_TRUE(feedback.restore(std::vector<float>{1, 2, 3, 4}).ok());
  EXPECT_EQ(feedback.residual()[3], 4.0f);
}

}  // namespace
}  // namespace sporkle::train
