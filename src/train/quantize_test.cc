#include "train/quantize.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "base/sha256.h"

namespace sporkle::train {
namespace {

std::vector<float> random_values(size_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<float> values(count);
  // Integer arithmetic only, so that every machine tests the same values.
  for (float& value : values) {
    const uint64_t bits = random();
    value = static_cast<float>(static_cast<int32_t>(bits >> 32)) * std::ldexp(1.0f, -31 - static_cast<int>(bits % 20));
  }
  return values;
}

TEST(Quantize, ErrorIsAtMostHalfAScaleInEveryBlock) {
  for (const size_t count : {1u, 255u, 256u, 257u, 5000u}) {
    const std::vector<float> values = random_values(count, count);
    const auto encoded = quantize(values);
    ASSERT_TRUE(encoded.ok());
    EXPECT_EQ(encoded->size(), quantized_size_bytes(count));
    std::vector<float> decoded(count);
    ASSERT_TRUE(dequantize(*encoded, decoded).ok());
    for (size_t begin = 0; begin < count; begin += kQuantizeBlockSize) {
      const size_t end = std::min<size_t>(count, begin + kQuantizeBlockSize);
      float largest = 0;
      for (size_t i = begin; i < end; ++i) largest = std::max(largest, std::fabs(values[i]));
      for (size_t i = begin; i < end; ++i)
        EXPECT_LE(std::fabs(values[i] - decoded[i]), largest / 127.0f * 0.50001f) << i;
    }
  }
}

TEST(Quantize, CostsLittleMoreThanAByteAValue) { EXPECT_LT(quantized_size_bytes(1'000'000), 1'020'000u); }

TEST(Quantize, TiesGoToTheEvenCode) {
  // A scale of exactly 1, so that the codes are the rounded values.
  const std::vector<float> values = {127.0f, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, 3.5f};
  const auto encoded = quantize(values);
  ASSERT_TRUE(encoded.ok());
  std::vector<float> decoded(values.size());
  ASSERT_TRUE(dequantize(*encoded, decoded).ok());
  EXPECT_EQ(decoded, (std::vector<float>{127, 0, 2, 2, -0.0f, -2, -2, 4}));
}

TEST(Quantize, BytesAreTheSameEverywhere) {
  const auto encoded = quantize(random_values(3000, 42));
  ASSERT_TRUE(encoded.ok());
  EXPECT_EQ(to_hex(sha256(*encoded)), "469a1f409de199f3f8e489ef8b06539a8d245099f38e9a4e673c3c524d6944ca");
}

TEST(Quantize, SubnormalAndZeroBlocks) {
  std::vector<float> values(300, 0.0f);
  values[7] = std::numeric_limits<float>::denorm_min();
  values[299] = std::numeric_limits<float>::min();
  const auto encoded = quantize(values);
  ASSERT_TRUE(encoded.ok());
  std::vector<float> decoded(values.size(), 1.0f);
  ASSERT_TRUE(dequantize(*encoded, decoded).ok());
  EXPECT_EQ(decoded[0], 0.0f);
  EXPECT_EQ(decoded[7], 0.0f);
  EXPECT_NEAR(decoded[299], values[299], values[299] / 50);
}

TEST(Quantize, RefusesWhatIsNotFinite) {
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    std::vector<float> values(10, 1.0f);
    values[3] = bad;
    EXPECT_EQ(quantize(values).status().code(), Code::invalid_argument);
  }
  EXPECT_EQ(quantize(std::vector<float>(3), 0).status().code(), Code::invalid_argument);
}

TEST(Quantize, DecodingTrustsNothing) {
  const std::vector<float> values = random_values(600, 1);
  const std::vector<std::byte> good = *quantize(values);
  std::vector<float> decoded(600, 5.0f);
  const auto refused = [&](std::vector<std::byte> bytes) {
    const Status status = dequantize_add(bytes, decoded);
    EXPECT_EQ(decoded, std::vector<float>(600, 5.0f)) << "changed on failure";
    return status.code() == Code::corrupt_data;
  };
  for (size_t size = 0; size < good.size(); size += 7)
    EXPECT_TRUE(refused(std::vector<std::byte>(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size))));
  auto longer = good;
  longer.push_back(std::byte{0});
  EXPECT_TRUE(refused(longer));
  const auto with = [&](size_t at, auto value) {
    auto bytes = good;
    std::memcpy(bytes.data() + at, &value, sizeof value);
    return bytes;
  };
  EXPECT_TRUE(refused(with(0, 'X')));
  EXPECT_TRUE(refused(with(3, char{2})));
  EXPECT_TRUE(refused(with(4, uint32_t{0})));
  EXPECT_TRUE(refused(with(4, uint32_t{1})));
  EXPECT_TRUE(refused(with(8, uint64_t{599})));
  EXPECT_TRUE(refused(with(8, std::numeric_limits<uint64_t>::max())));
  EXPECT_TRUE(refused(with(16, std::numeric_limits<float>::quiet_NaN())));
  EXPECT_TRUE(refused(with(20, std::numeric_limits<float>::infinity())));
  EXPECT_TRUE(refused(with(20, std::numeric_limits<float>::max())));
  EXPECT_TRUE(refused(with(16, -1.0f)));
  EXPECT_TRUE(refused(with(16 + 12 + 5, int8_t{-128})));
  ASSERT_TRUE(dequantize(good, decoded).ok());
}

TEST(ErrorFeedback, WhatIsKeptBackArrivesOverTime) {
  const std::vector<float> update = random_values(1000, 3);
  ErrorFeedback feedback(update.size());
  std::vector<float> received(update.size(), 0.0f);
  for (int i = 0; i < 50; ++i) {
    const auto message = feedback.encode(update);
    ASSERT_TRUE(message.ok());
    ASSERT_TRUE(dequantize_add(*message, received).ok());
    feedback.commit();
  }
  // Without feedback each of 50 messages would lose the same part, up to half a scale of 1/127.
  for (size_t i = 0; i < update.size(); ++i) EXPECT_NEAR(received[i] / 50, update[i], 0.0002) << i;
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
