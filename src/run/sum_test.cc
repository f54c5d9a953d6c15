#include "run/sum.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

namespace sporkle::run {
namespace {

TEST(Sum, AddsInTheOrderGiven) {
  std::mt19937 random(3);
  for (const size_t arrays : {1, 2, 3, 4, 7}) {
    for (const size_t count : {1, 15, 2048, 2049, 70'001}) {
      std::vector<std::vector<float>> inputs(arrays, std::vector<float>(count));
      std::vector<const std::byte*> pointers;
      for (auto& input : inputs) {
        for (float& value : input) value = std::ldexp(static_cast<float>(random() % 4001) - 2000, random() % 20);
        pointers.push_back(reinterpret_cast<const std::byte*>(input.data()));
      }
      std::vector<float> sum(count, NAN);
      sum_f32({}, pointers, std::as_writable_bytes(std::span(sum)));
      for (size_t i = 0; i < count; ++i) {
        volatile float expected = inputs[0][i];  // keeps the compiler from adding in another way
        for (size_t k = 1; k < arrays; ++k) expected = expected + inputs[k][i];
        ASSERT_EQ(sum[i], expected) << arrays << " arrays, element " << i;
      }
    }
  }
}

TEST(Sum, ARestIsZero) {
  const std::vector<float> ones(2, 1);
  const auto* bytes = reinterpret_cast<const std::byte*>(ones.data());
  const std::byte* inputs[] = {bytes, bytes};
  alignas(float) std::byte sum[7];
  std::memset(sum, 0xff, sizeof sum);
  sum_f32({}, inputs, sum);
  float first;
  std::memcpy(&first, sum, sizeof first);
  EXPECT_EQ(first, 2);
  for (size_t i = 4; i < 7; ++i) EXPECT_EQ(sum[i], std::byte{0});
}

}  // namespace
}  // namespace sporkle::run
