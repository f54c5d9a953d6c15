#include "validate/accuracy.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

namespace sporkle::validate {
namespace {

TEST(ErrorUlp, CountsUnitsOfTheExactResult) {
  const float infinity = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(error_ulp(1, 1), 0);
  EXPECT_EQ(error_ulp(std::nextafter(1.0f, 2.0f), 1), 1);
  EXPECT_EQ(error_ulp(1, 1 + 0x1p-24), 0.5);
  EXPECT_EQ(error_ulp(-8, -8 - 0x1p-21), 0.5);  // a unit from 8 on is 2^-20
  EXPECT_EQ(error_ulp(0, 0x1p-149), 1);
  EXPECT_EQ(error_ulp(0x1p-149f, 0x1.8p-149), 0.5);
  EXPECT_EQ(error_ulp(nan, std::nan("")), 0);
  EXPECT_EQ(error_ulp(infinity, 1e300), 0);
  EXPECT_EQ(error_ulp(1, 1e300), infinity);
  EXPECT_EQ(error_ulp(infinity, 1), infinity);
  EXPECT_EQ(error_ulp(nan, 1), infinity);
}

class FunctionTest : public testing::TestWithParam<size_t> {};

TEST_P(FunctionTest, KeepsToItsLimit) {
  const MathFunction& function = math_functions()[GetParam()];
  const auto accuracy = measure_accuracy(function, {.samples = uint64_t{1} << 20, .threads = 2});
  ASSERT_TRUE(accuracy.ok()) << accuracy.status().to_string();
  EXPECT_EQ(accuracy->inputs, uint64_t{1} << 20);
  EXPECT_TRUE(accuracy->holds) << accuracy->ours.ulp << " at " << accuracy->ours.input;
  EXPECT_GT(accuracy->ours.ulp, 0.4);  // what rounding alone leaves: less means that nothing was compared
  if (function.c_library) {
    EXPECT_GT(accuracy->c_library.ulp, 0.4);
    EXPECT_LT(accuracy->c_library.ulp, 4);
  }
  if (accuracy->c_vectors) {
    EXPECT_GT(accuracy->c_vectors->ulp, 0.4);
    EXPECT_LT(accuracy->c_vectors->ulp, 5);  // glibc promises 4 for them
  }
}

INSTANTIATE_TEST_SUITE_P(EveryFunction, FunctionTest, testing::Range(size_t{0}, math_functions().size()),
                         [](const auto& parameter) { return std::string(math_functions()[parameter.param].name); });

// A planted drift of two units, and of one element in a hundred thousand.
TEST(MeasureAccuracy, FindsADrift) {
  MathFunction function = math_functions()[0];
  function.ours = [](const tensor::Operand& x) { return tensor::exp(x) * (1 + 0x1p-22); };
  const auto drifting = measure_accuracy(function, {.samples = 1 << 16, .threads = 1});
  ASSERT_TRUE(drifting.ok());
  EXPECT_FALSE(drifting->holds);
  EXPECT_GT(drifting->ours.ulp, 1.5);
  EXPECT_LT(drifting->ours.ulp, 6);

  function.ours = [](const tensor::Operand& operand) {
    const tensor::Tensor& x = operand;
    const tensor::Tensor y = tensor::exp(x);
    return tensor::where(tensor::equal(tensor::index(x.context(), x.shape(), 0),
                                       tensor::full(x.context(), x.shape(), 16256, ir::DType::i32)),
                         y * 1.0001, y);
  };
  const auto one_wrong = measure_accuracy(function, {.samples = 1 << 16, .threads = 2});
  ASSERT_TRUE(one_wrong.ok());
  EXPECT_FALSE(one_wrong->holds);
}

TEST(MeasureAccuracy, DoesNotDependOnThreads) {
  const MathFunction& function = math_functions()[2];
  const auto one = measure_accuracy(function, {.samples = 100'000, .threads = 1});
  const auto two = measure_accuracy(function, {.samples = 100'000, .threads = 2});
  ASSERT_TRUE(one.ok() && two.ok());
  EXPECT_EQ(one->ours.ulp, two->ours.ulp);
  EXPECT_EQ(one->ours.input, two->ours.input);
  EXPECT_EQ(one->ours.above, two->ours.above);
}

TEST(MeasureAccuracy, RefusesWrongCounts) {
  const MathFunction& function = math_functions()[0];
  EXPECT_EQ(measure_accuracy(function, {.samples = 0}).status().code(), Code::invalid_argument);
  EXPECT_EQ(measure_accuracy(function, {.samples = (uint64_t{1} << 32) + 1}).status().code(), Code::invalid_argument);
  EXPECT_EQ(measure_accuracy(function, {.device = "abacus"}).status().code(), Code::not_found);
}

}  // namespace
}  // namespace sporkle::validate
