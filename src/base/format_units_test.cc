#include "base/format_units.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace sporkle {
namespace {

TEST(FormatUnits, Bytes) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(999), "999 B");
  EXPECT_EQ(format_bytes(1000), "1.00 kB");
  EXPECT_EQ(format_bytes(34'560'000), "34.6 MB");
  EXPECT_EQ(format_bytes(999'999), "1.00 MB");
  EXPECT_EQ(format_bytes(-1500), "-1.50 kB");
}

TEST(FormatUnits, Counts) {
  EXPECT_EQ(format_count(7), "7");
  EXPECT_EQ(format_count(0.5), "0.50");
  EXPECT_EQ(format_count(12'345), "12.3k");
  EXPECT_EQ(format_count(2.46e6), "2.46M");
  EXPECT_EQ(format_count(999.7), "1.00k");
  EXPECT_EQ(format_rate(34.5e9, "FLOP/s"), "34.5 GFLOP/s");
  EXPECT_EQ(format_rate(7, "FLOP/s"), "7 FLOP/s");
}

TEST(FormatUnits, Durations) {
  EXPECT_EQ(format_duration(0.44), "0.4s");
  EXPECT_EQ(format_duration(9.97), "10s");
  EXPECT_EQ(format_duration(59.7), "1m 00s");
  EXPECT_EQ(format_duration(245), "4m 05s");
  EXPECT_EQ(format_duration(3600 + 125), "1h 02m");
  EXPECT_EQ(format_duration(3 * 86400.0 + 4 * 3600), "3d 04h");
  EXPECT_EQ(format_duration(-1), "?");
  EXPECT_EQ(format_duration(std::numeric_limits<double>::infinity()), "?");
  EXPECT_EQ(format_duration(std::nan("")), "?");
}

TEST(FormatUnits, Fixed) {
  EXPECT_EQ(format_fixed(1.5, 3), "1.500");
  EXPECT_EQ(format_fixed(std::nan(""), 2), "nan");
}

}  // namespace
}  // namespace sporkle
