#include "ir/float16.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

namespace sporkle::ir {
namespace {

TEST(Half, EveryValueRoundTrips) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = half_to_float(static_cast<uint16_t>(bits));
    if (std::isnan(value))
      EXPECT_EQ(float_to_half(value), (bits & 0x8000) | 0x7e00);
    else
      ASSERT_EQ(float_to_half(value), bits);
  }
}

// Between each pair of neighbours: just below the middle, the middle (to even), just above.
TEST(Half, RoundsToNearestEven) {
  for (uint32_t bits = 0; bits < 0x7bff; ++bits) {
    const uint16_t low = static_cast<uint16_t>(bits), high = static_cast<uint16_t>(bits + 1);
    const float middle = (half_to_float(low) + half_to_float(high)) / 2;
    ASSERT_EQ(float_to_half(std::nextafter(middle, 0.0f)), low);
    ASSERT_EQ(float_to_half(middle), bits % 2 == 0 ? low : high);
    ASSERT_EQ(float_to_half(std::nextafter(middle, 1e9f)), high);
    ASSERT_EQ(float_to_half(-middle), 0x8000 | (bits % 2 == 0 ? low : high));
  }
  EXPECT_EQ(float_to_half(65519.996f), 0x7bff);
  EXPECT_EQ(float_to_half(65520.0f), 0x7c00);
  EXPECT_EQ(float_to_half(std::numeric_limits<float>::infinity()), 0x7c00);
  EXPECT_EQ(float_to_half(-1e30f), 0xfc00);
  EXPECT_EQ(half_to_float(1), 0x1p-24f);
  EXPECT_EQ(half_to_float(0x3c00), 1.0f);
}

TEST(Bfloat16, RoundsToNearestEven) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = bfloat16_to_float(static_cast<uint16_t>(bits));
    if (std::isnan(value)) {
      EXPECT_EQ(float_to_bfloat16(value), (bits & 0x8000) | 0x7fc0);
      continue;
    }
    ASSERT_EQ(float_to_bfloat16(value), bits);
    if ((bits & 0x7fff) >= 0x7f80) continue;
    const uint32_t exact = bits << 16;
    ASSERT_EQ(float_to_bfloat16(std::bit_cast<float>(exact | 0x7fff)), bits);
    ASSERT_EQ(float_to_bfloat16(std::bit_cast<float>(exact | 0x8000)), bits + bits % 2);
    ASSERT_EQ(float_to_bfloat16(std::bit_cast<float>(exact | 0x8001)), bits + 1);
  }
}

}  // namespace
}  // namespace sporkle::ir
