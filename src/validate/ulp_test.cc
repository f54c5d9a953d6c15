#include "validate/ulp.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace sporkle::validate {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

TEST(UlpTest, OfNumbersOfEverySize) {
  EXPECT_EQ(ulp_at(1.0), 0x1p-23);
  EXPECT_EQ(ulp_at(-1.99), 0x1p-23);
  EXPECT_EQ(ulp_at(2.0), 0x1p-22);
  EXPECT_EQ(ulp_at(0.0), 0x1p-149);
  EXPECT_EQ(ulp_at(0x1p-140), 0x1p-149);
  EXPECT_EQ(ulp_at(kInfinity), 0x1p104);
}

TEST(UlpTest, IsZeroForACorrectlyRoundedResult) {
  EXPECT_EQ(ulp_error(1.0, 1.0), 0);
  EXPECT_EQ(ulp_error(1.0, 1.0 + 0x1p-25), 0);
  EXPECT_EQ(ulp_error(1.0 + 0x1p-23, 1.0 + 0x1p-24), 0) << "a tie may have been rounded once before";
  EXPECT_EQ(ulp_error(kInfinity, 1e300), 0);
  EXPECT_EQ(ulp_error(kNan, kNan), 0);
  EXPECT_EQ(ulp_error(0.0, 1e-60), 0);
}

TEST(UlpTest, MeasuresTheDistanceOtherwise) {
  EXPECT_EQ(ulp_error(1.0 + 0x1p-23, 1.0), 1);
  EXPECT_EQ(ulp_error(1.0 + 0x1p-22, 1.0), 2);
  EXPECT_EQ(ulp_error(1.0 + 0x1p-22, 1.0, 4.0), 0.5);
  EXPECT_EQ(ulp_error(0x1p-149, 0.0), 1);
  EXPECT_EQ(ulp_error(kInfinity, 0x1.fffffep127), 1);
  EXPECT_EQ(ulp_error(kNan, 1.0), kInfinity);
  EXPECT_EQ(ulp_error(1.0, kNan), kInfinity);
  EXPECT_GT(ulp_error(-kInfinity, kInfinity), 1e6);
  EXPECT_EQ(ulp_error(1.0 + 0x1p-23, 1.0, kNan), 1);
}

}  // namespace
}  // namespace sporkle::validate
