#include "tensor/passes/testing.h"

namespace sporkle::tensor {
namespace {

using testing::context;
using testing::count;
using testing::planning_of;

TEST(ConstantFoldingTest, OperationsOnConstantsAndTheirViewsBecomeConstants) {
  Context& c = context("reference");
  const Tensor x = testing::random_tensor(c, {4, 3}, 1);
  const Tensor number = full(c, {3}, 2.0);
  const Tensor y = x * (exp(number) + number.reshape({1, 3})).expand({4, 3});
  Planning planning = planning_of({y});
  ASSERT_TRUE(fold_constants(planning).ok());
  ASSERT_TRUE(drop_dead_code(planning).ok());
  EXPECT_EQ(count(planning, Op::exp), 0);
  EXPECT_EQ(count(planning, Op::add), 0);
  EXPECT_EQ(count(planning, Op::expand), 0);
  EXPECT_EQ(planning.graph.nodes().size(), 2u) << "the product and one constant";
}

TEST(ConstantFoldingTest, EveryTypeKeepsItsBits) {
  const auto compute = [](Context& c, std::vector<std::vector<double>>* results) {
    const auto number = [&](double value, DType type) { return full(c, {2}, value, type); };
    for (const double value : {-0.0, 1.5, -7.25, 1e-40, 3e38, std::nan("")})
      for (const DType type : {DType::f32, DType::f64}) {
        const Tensor x = number(value, type);
        for (const Tensor& y : {tanh(x), x / number(3, type), -x, floor(x), x.cast(DType::i32), gelu(x),
                                where(less(x, number(1, type)), x * x, sqrt(x))})
          results->push_back(testing::read_numbers(y));
      }
    results->push_back(testing::read_numbers(number(-5, DType::i32) * number(3, DType::i32)));
    results->push_back(testing::read_numbers(less(number(-5, DType::i32), number(3, DType::i32))));
  };
  std::vector<std::vector<double>> folded, run;
  compute(testing::context_without(""), &folded);
  compute(testing::context_without("constant_folding"), &run);
  ASSERT_EQ(folded.size(), run.size());
  for (size_t i = 0; i < folded.size(); ++i)
    for (size_t j = 0; j < folded[i].size(); ++j)
      EXPECT_TRUE(std::bit_cast<uint64_t>(folded[i][j]) == std::bit_cast<uint64_t>(run[i][j]) ||
                  (std::isnan(folded[i][j]) && std::isnan(run[i][j])))
          << "result " << i << ": " << folded[i][j] << " and " << run[i][j];
}

TEST(ConstantFoldingTest, WhatDependsOnDataStays) {
  const Tensor x = testing::random_tensor(context("reference"), {4}, 1);
  Planning planning = planning_of({exp(x) * 2.0});
  const size_t before = planning.graph.nodes().size();
  ASSERT_TRUE(fold_constants(planning).ok());
  EXPECT_EQ(planning.graph.nodes().size(), before);
}

}  // namespace
}  // namespace sporkle::tensor
