#include <limits>

#include "tensor/layers.h"
#include "tensor/passes/testing.h"

namespace sporkle::tensor {
namespace {

using testing::context;
using testing::count;
using testing::planning_of;

// The nodes that are left of what computes `y`.
size_t nodes_left(const Tensor& y) {
  Planning planning = planning_of({y});
  EXPECT_TRUE(simplify_algebra(planning).ok());
  EXPECT_TRUE(drop_dead_code(planning).ok());
  return planning.graph.nodes().size();
}

Op left_op(const Tensor& y) {
  Planning planning = planning_of({y});
  EXPECT_TRUE(simplify_algebra(planning).ok());
  return planning.graph.roots()[0]->op;
}

// Numbers at which an identity that is none shows.
std::vector<float> edges() {
  using Limits = std::numeric_limits<float>;
  return {
      0.0f,   -0.0f,   1.0f,          -1.5f,          Limits::infinity(),   -Limits::infinity(), Limits::quiet_NaN(),
      1e-40f, -1e-45f, Limits::max(), -Limits::max(), Limits::denorm_min(), Limits::min(),       3.14159f};
}

TEST(AlgebraTest, IdentitiesVanish) {
  Context& c = context("reference");
  const Tensor x = testing::random_tensor(c, {4, 3}, 1);
  for (const Tensor& y : {x * 1.0, 1.0 * x, x / 1.0, x - 0.0, x + -0.0, -(-x), maximum(x, x), minimum(x, x),
                          where(less(x, x * 2.0), x, x), x.cast(DType::f64).cast(DType::f32)})
    EXPECT_EQ(nodes_left(y), 0u);
  EXPECT_EQ(nodes_left(abs(-x)), 1u);
  EXPECT_EQ(nodes_left(abs(abs(x))), 1u);
}

TEST(AlgebraTest, CheaperOperationsTakeTheirPlace) {
  Context& c = context("reference");
  const Tensor x = testing::random_tensor(c, {4, 3}, 1), z = testing::random_tensor(c, {4, 3}, 2);
  EXPECT_EQ(left_op(x + -z), Op::sub);
  EXPECT_EQ(left_op(-x + z), Op::sub);
  EXPECT_EQ(left_op(x - -z), Op::add);
  EXPECT_EQ(left_op(x * -1.0), Op::neg);
  EXPECT_EQ(left_op(x / -1.0), Op::neg);
  EXPECT_EQ(left_op(x / 8.0), Op::mul);
  EXPECT_EQ(left_op(fma(x, full_like(x, 1.0), z)), Op::add);
  EXPECT_EQ(left_op(fma(x, z, full_like(x, -0.0))), Op::mul);
}

TEST(AlgebraTest, WhatWouldChangeBitsStays) {
  Context& c = context("reference");
  const Tensor x = testing::random_tensor(c, {4, 3}, 1);
  EXPECT_EQ(left_op(x + 0.0), Op::add) << "-0 + 0 is +0";
  EXPECT_EQ(left_op(x - -0.0), Op::sub) << "-0 - -0 is +0";
  EXPECT_EQ(left_op(x / 3.0), Op::div);
  EXPECT_EQ(left_op(x / 0.0), Op::div);
  EXPECT_EQ(left_op(x / 0x1p-140), Op::div) << "its reciprocal is no f32";
  EXPECT_EQ(left_op(x * 0.0), Op::mul) << "NaN * 0, -1 * 0";
  EXPECT_EQ(left_op(x - x), Op::sub) << "inf - inf";
  EXPECT_EQ(left_op(x.cast(DType::i32).cast(DType::f32)), Op::cast);
}

TEST(AlgebraTest, EdgeValuesKeepTheirBits) {
  const auto compute = [](Context& c) {
    const Tensor x = from_host<float>(c, edges(), {static_cast<int64_t>(edges().size())});
    const Tensor z = x.slice(0, 3, 1).expand(x.shape());
    std::vector<std::vector<float>> values;
    for (const Tensor& y : {x * 1.0,
                            x / 1.0,
                            x - 0.0,
                            x + -0.0,
                            x + 0.0,
                            -(-x),
                            x + -z,
                            -x + z,
                            x - -z,
                            x * -1.0,
                            x / -1.0,
                            x / 8.0,
                            x / 0x1p-100,
                            maximum(x, x),
                            where(less(x, z), x, x),
                            fma(x, full_like(x, 1.0), z),
                            fma(x, z, full_like(x, -0.0)),
                            x.cast(DType::f64).cast(DType::f32),
                            abs(-x),
                            abs(abs(x))})
      values.push_back(testing::read(y));
    return values;
  };
  const auto with = compute(testing::context_without("")), without = compute(testing::context_without("algebra"));
  ASSERT_EQ(with.size(), without.size());
  for (size_t i = 0; i < with.size(); ++i)
    for (size_t j = 0; j < with[i].size(); ++j)
      EXPECT_TRUE(std::bit_cast<uint32_t>(with[i][j]) == std::bit_cast<uint32_t>(without[i][j]) ||
                  (std::isnan(with[i][j]) && std::isnan(without[i][j])))
          << "expression " << i << " of " << edges()[j] << ": " << with[i][j] << " and " << without[i][j];
}

TEST(AlgebraTest, MovementsJoin) {
  Context& c = context("reference");
  const Tensor x = testing::random_tensor(c, {2, 3, 4}, 1);
  EXPECT_EQ(nodes_left(exp(x.transpose(0, 1).transpose(0, 1))), 1u);
  EXPECT_EQ(nodes_left(exp(x.transpose(0, 1).transpose(1, 2))), 2u);
  EXPECT_EQ(nodes_left(exp(x.reshape({6, 4}).reshape({24}))), 2u);
  EXPECT_EQ(nodes_left(exp(x.reshape({6, 4}).reshape({2, 3, 4}))), 1u);
  EXPECT_EQ(nodes_left(exp(x.slice(0, 1, 1).slice(2, 1, 2).slice(2, 1, 1))), 2u);
}

// What stood between a reshape and a transposed view goes away: the reshape needs a copy of its own.
TEST(AlgebraTest, AReshapeKeepsStrides) {
  const auto compute = [](Context& c) {
    const Tensor x = testing::random_tensor(c, {6, 4}, 1);
    return testing::read(((x.transpose(0, 1) * 1.0).reshape({24}) + 1.0));
  };
  EXPECT_EQ(compute(testing::context_without("")), compute(testing::context_without("any")));
}

// A kernel call reads rows in memory: what stood between it and a transposed view goes away.
TEST(AlgebraTest, CallsKeepRowsInMemory) {
  const auto compute = [](Context& c) {
    const Tensor x = testing::random_tensor(c, {6, 4}, 1), weight = testing::random_tensor(c, {6}, 2);
    return testing::read(layer_norm(x.transpose(0, 1) * 1.0, weight, weight, 1e-5));
  };
  EXPECT_EQ(compute(testing::context_without("")), compute(testing::context_without("any")));
}

// A result that turns out to be an operand shares its memory; one that turns out to be a view gets its own.
TEST(AlgebraTest, RootsMayBecomeWhatTheyAreMadeOf) {
  Context& c = testing::context_without("");
  const Tensor x = testing::random_tensor(c, {2, 3}, 1);
  const Tensor same = x * 1.0, turned = x.transpose(0, 1) * 1.0;
  ASSERT_TRUE(realize({same, turned}).ok());
  EXPECT_EQ(testing::read(same), testing::read(x));
  EXPECT_EQ(testing::read(turned), testing::read(x.transpose(0, 1)));
}

// A value that has been computed is read, not looked through.
TEST(AlgebraTest, StoredValuesAreNotLookedThrough) {
  Context& c = testing::context_without("");
  const Tensor x = exp(testing::random_tensor(c, {4}, 1)), negative = -x;
  ASSERT_TRUE(realize({negative}).ok());
  const uint64_t before = c.counters().launches;
  ASSERT_TRUE(realize({-negative}).ok());
  EXPECT_EQ(c.counters().launches, before + 1);
}

}  // namespace
}  // namespace sporkle::tensor
