#include "tensor/autograd.h"
#include "tensor/passes/memory_plan.h"
#include "tensor/passes/testing.h"

namespace sporkle::tensor {
namespace {

// A chain of products whose gradients are all wanted: by itself, each would wait for the whole way back.
std::vector<Tensor> chain_gradients(Context& c, int layers) {
  std::vector<Tensor> weights;
  Tensor x = testing::random_tensor(c, {64, 64}, 1);
  for (int i = 0; i < layers; ++i) {
    weights.push_back(testing::random_tensor(c, {64, 64}, static_cast<uint32_t>(i) + 2, -0.1, 0.1));
    x = tanh(matmul(x, weights.back()));
  }
  auto gradients = grad(sum(x * x), weights);
  EXPECT_TRUE(gradients.ok());
  return *gradients;
}

size_t peak_of(Context& c) {
  c.trim();
  const std::vector<Tensor> gradients = chain_gradients(c, 12);
  const size_t before = c.counters().allocated_bytes;
  EXPECT_TRUE(realize(gradients).ok());
  return c.counters().allocated_bytes - before;
}

TEST(StepOrderTest, GradientsOfAChainNeedLessMemoryAtOnce) {
  const size_t ordered = peak_of(testing::context_without("", "cpu"));
  const size_t unordered = peak_of(testing::context_without("step_order", "cpu"));
  EXPECT_LT(ordered, unordered - 6 * 64 * 64 * sizeof(float));
}

TEST(StepOrderTest, KeepsEveryStepAfterWhatItReads) {
  Context& c = testing::context_without("", "cpu");
  const std::vector<Tensor> gradients = chain_gradients(c, 4);
  Planning planning = testing::planning_of({gradients[0], gradients[1], gradients[3]});
  for (const auto pass : {drop_dead_code, recompute_activations, fuse_steps}) ASSERT_TRUE(pass(planning).ok());
  const size_t steps = planning.steps.size();
  ASSERT_TRUE(order_steps(planning).ok());
  EXPECT_EQ(planning.steps.size(), steps);
  std::vector<const Node*> made;
  for (const Step& step : planning.steps) {
    for (const Node* read : step.reads) EXPECT_TRUE(read->storage || std::ranges::find(made, read) != made.end());
    made.insert(made.end(), step.results.begin(), step.results.end());
  }
}

}  // namespace
}  // namespace sporkle::tensor
