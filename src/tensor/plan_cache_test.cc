#include "tensor/plan_cache.h"

#include <optional>

#include "tensor/autograd.h"
#include "tensor/layers.h"
#include "tensor/random.h"
#include "tensor/random_graph.h"
#include "tensor/testing.h"

namespace sporkle::tensor {
namespace {

using testing::context;
using testing::random_tensor;
using testing::read;

// How many graphs were planned while `work` ran.
template <typename Work>
uint64_t plans(Context& c, const Work& work) {
  const uint64_t before = c.counters().plans;
  work();
  return c.counters().plans - before;
}

TEST(PlanCacheTest, AGraphLikeAnEarlierOneIsNotPlanned) {
  Context& c = context();
  const Tensor x = random_tensor(c, {8, 8}, 1), y = random_tensor(c, {8, 8}, 2);
  const auto compute = [](const Tensor& a, const Tensor& b, double scale, uint64_t step) {
    return read(dropout(gelu(matmul(a, b)) * scale, 0.5, {.seed = 3, .step = step}));
  };
  std::vector<std::vector<float>> values;
  EXPECT_EQ(plans(c, [&] { values.push_back(compute(x, y, 0.3, 1)); }), 1u);
  // Other data, another number, another random key.
  EXPECT_EQ(plans(c,
                  [&] {
                    values.push_back(compute(y, x, 0.3, 1));
                    values.push_back(compute(x, y, 0.7, 1));
                    values.push_back(compute(x, y, 0.3, 2));
                  }),
            0u);
  // As a context gives them that plans each anew.
  for (size_t i = 0; i < values.size(); ++i) {
    const auto fresh = Context::open("cpu", {.threads = 2});
    ASSERT_TRUE(fresh.ok());
    const Tensor a = random_tensor(**fresh, {8, 8}, i == 1 ? 2 : 1), b = random_tensor(**fresh, {8, 8}, i == 1 ? 1 : 2);
    EXPECT_EQ(compute(a, b, i == 2 ? 0.7 : 0.3, i == 3 ? 2 : 1), values[i]) << i;
  }
}

TEST(PlanCacheTest, WhatShapesThePlanMakesAnother) {
  Context& c = context();
  const Tensor x = random_tensor(c, {8, 8}, 1), y = random_tensor(c, {8, 8}, 2), z = random_tensor(c, {4, 8}, 3);
  const auto run = [](const Tensor& t) { EXPECT_FALSE(read(t).empty()); };
  EXPECT_EQ(plans(c, [&] { run(x * y + x); }), 1u);
  EXPECT_EQ(plans(c, [&] { run(x * x + x); }), 1u) << "one operand for two";
  EXPECT_EQ(plans(c, [&] { run(x * y + y); }), 1u);
  EXPECT_EQ(plans(c, [&] { run(z * z + z); }), 1u) << "another shape";
  EXPECT_EQ(plans(c, [&] { run(x.transpose(0, 1) * y + x); }), 1u);
  EXPECT_EQ(plans(c, [&] { run(x * 0.9); }), 1u);
  EXPECT_EQ(plans(c, [&] { run(x * 1.0); }), 1u) << "a number that a rule looks at";
  EXPECT_EQ(plans(c, [&] { run(x + exp(full(c, {8, 8}, 3.0))); }), 1u);
  EXPECT_EQ(plans(c, [&] { run(x + exp(full(c, {8, 8}, 5.0))); }), 1u) << "a number that was folded";
}

// Two numbers that are equal once must not be one number for ever, nor two calls.
TEST(PlanCacheTest, NumbersThatHappenToBeEqualAreNotMergedForLater) {
  Context& c = context();
  const Tensor x = random_tensor(c, {4, 8}, 1), weight = random_tensor(c, {8}, 2);
  const auto compute = [&](double a, double b) { return read(x * a + x * b); };
  const auto norms = [&](double a, double b) {
    return read(layer_norm(x, weight, weight, a) - layer_norm(x, weight, weight, b));
  };
  (void)compute(0.3, 0.3);
  (void)norms(0.1, 0.1);
  const std::vector<float> values = read(x), sums = compute(0.3, 0.6), differences = norms(0.1, 0.9);
  for (size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(sums[i], values[i] * 0.3f + values[i] * 0.6f);
    EXPECT_NE(differences[i], 0.0f);
  }
}

// Data that two operands share once must not be shared for ever.
TEST(PlanCacheTest, AliasesArePartOfTheStructure) {
  Context& c = context();
  const Tensor x = random_tensor(c, {64}, 1), y = random_tensor(c, {64}, 2);
  const Tensor alias = x.detach();
  const auto compute = [](const Tensor& a, const Tensor& b) { return read(a - b); };
  EXPECT_EQ(compute(x, alias), std::vector<float>(64, 0.0f));
  const std::vector<float> difference = compute(x, y), xs = read(x), ys = read(y);
  for (size_t i = 0; i < xs.size(); ++i) EXPECT_EQ(difference[i], xs[i] - ys[i]);
}

TEST(PlanCacheTest, RandomGraphsGiveTheSameBitsAgain) {
  for (uint64_t seed = 200; seed < 240; ++seed) {
    const RandomGraph graph = RandomGraph::generate(seed, 20);
    const auto first = run_graph(graph, context());
    ASSERT_TRUE(first.ok()) << first.status().to_string();
    std::optional<Result<GraphValues>> again;
    EXPECT_EQ(plans(context(), [&] { again = run_graph(graph, context()); }), 0u);
    ASSERT_TRUE(again->ok());
    EXPECT_TRUE(same_values(*first, **again)) << graph.text();
  }
}

TEST(PlanCacheTest, MorePlansThanItKeeps) {
  Context& c = context();
  const Tensor x = random_tensor(c, {300}, 1);
  for (int round = 0; round < 2; ++round)
    for (int64_t n = 1; n <= 200; ++n) EXPECT_EQ(read(x.slice(0, 0, n) * 3.0).size(), static_cast<size_t>(n));
}

TEST(PlanCacheTest, KeptPlansKeepNoMemory) {
  Context& c = context();
  c.trim();
  const size_t before = c.counters().allocated_bytes;
  {
    const Tensor x = random_tensor(c, {1 << 20}, 1);
    ASSERT_TRUE(realize({matmul(x.reshape({1024, 1024}), exp(x).reshape({1024, 1024}))}).ok());
  }
  EXPECT_GT(c.counters().allocated_bytes, before);
  c.trim();
  EXPECT_EQ(c.counters().allocated_bytes, before);
}

}  // namespace
}  // namespace sporkle::tensor
