#include "tensor/autograd.h"
#include "tensor/layers.h"
#include "tensor/passes/testing.h"
#include "tensor/random.h"

namespace sporkle::tensor {
namespace {

constexpr int64_t kRows = 256, kWidth = 64;

struct Network {
  std::vector<Tensor> weights;
  Tensor loss;
};

// Residual blocks of a norm, a product, a GELU, dropout and a product.
Network network(Context& c, int blocks) {
  Network n;
  Tensor x = testing::random_tensor(c, {kRows, kWidth}, 1);
  const auto weight = [&](Shape shape, uint32_t seed) {
    n.weights.push_back(testing::random_tensor(c, shape, seed, -0.2, 0.2));
    return n.weights.back();
  };
  for (int i = 0; i < blocks; ++i) {
    const auto seed = static_cast<uint32_t>(10 * i + 2);
    const Tensor gain = weight({kWidth}, seed), shift = weight({kWidth}, seed + 1);
    const Tensor inner = gelu(matmul(layer_norm(x, gain, shift, 1e-5), weight({kWidth, 4 * kWidth}, seed + 2)));
    x = x + matmul(dropout(inner, 0.1, {.seed = seed}), weight({4 * kWidth, kWidth}, seed + 3));
  }
  n.loss = mean(x * x);
  return n;
}

struct Outcome {
  std::vector<std::vector<float>> values;
  size_t arena_bytes = 0;
  int keep_every = 0;
  Status status;
};

Outcome run(Context& c, size_t cap) {
  Outcome outcome;
  const Network n = network(c, 8);
  const auto gradients = grad(n.loss, n.weights);
  EXPECT_TRUE(gradients.ok());
  std::vector<Tensor> wanted{n.loss};
  wanted.insert(wanted.end(), gradients->begin(), gradients->end());
  c.set_memory_cap(cap);
  outcome.status = realize(wanted);
  c.set_memory_cap(0);
  if (!outcome.status.ok()) return outcome;
  outcome.arena_bytes = c.last_plan().arena_bytes;
  outcome.keep_every = c.last_plan().keep_every;
  for (const Tensor& tensor : wanted) outcome.values.push_back(testing::read(tensor));
  return outcome;
}

TEST(RecomputationTest, ADriverMayAllowSmallBuffersOnly) {
  const Outcome whole = run(testing::context(), 0);
  // Too small for one of the values: that is said, and nothing is lost.
  const auto context = [](size_t segment_bytes) {
    ContextOptions options;
    options.segment_bytes = segment_bytes;
    auto made = Context::open("cpu", {}, options);
    EXPECT_TRUE(made.ok()) << made.status().to_string();
    return std::move(*made);
  };
  const Outcome refused = run(*context(1024), 0);
  EXPECT_EQ(refused.status.code(), Code::out_of_memory);
  EXPECT_NE(refused.status.message().find("allows no buffer above"), std::string::npos) << refused.status.message();
  const Outcome parts = run(*context(whole.arena_bytes / 5), 0);
  ASSERT_TRUE(parts.status.ok()) << parts.status.to_string();
  EXPECT_GE(parts.arena_bytes, whole.arena_bytes);
  EXPECT_EQ(parts.values, whole.values);
}

TEST(RecomputationTest, SavesMemoryAndKeepsEveryBit) {
  Context& c = testing::context();
  const Outcome free = run(c, 0);
  ASSERT_TRUE(free.status.ok());
  EXPECT_EQ(free.keep_every, 0);
  const size_t data = c.last_plan().leaf_bytes + c.last_plan().result_bytes;
  // What other tests hold in this context counts as well.
  const size_t held = c.in_use_bytes();
  const Outcome capped = run(c, held + data + free.arena_bytes / 2);
  ASSERT_TRUE(capped.status.ok()) << capped.status.to_string();
  EXPECT_GE(capped.keep_every, 1);
  EXPECT_LT(capped.arena_bytes, free.arena_bytes / 2);
  EXPECT_EQ(capped.values, free.values);
}

TEST(RecomputationTest, ACapThatIsTooSmallIsAClearError) {
  Context& c = testing::context();
  const Outcome outcome = run(c, 1000);
  EXPECT_EQ(outcome.status.code(), Code::out_of_memory);
  for (const char* part : {"memory cap is 1.00 kB", "needs", "raise the cap"})
    EXPECT_NE(outcome.status.message().find(part), std::string::npos) << outcome.status.message();
  // The context goes on.
  EXPECT_TRUE(run(c, 0).status.ok());
}

TEST(RecomputationTest, WithoutACapNothingIsComputedTwice) {
  Context& c = testing::context();
  const Network n = network(c, 3);
  const auto gradients = grad(n.loss, n.weights);
  ASSERT_TRUE(gradients.ok());
  Planning planning = testing::planning_of({n.loss, (*gradients)[2]});
  const size_t before = planning.graph.nodes().size();
  ASSERT_TRUE(recompute_activations(planning).ok());
  EXPECT_EQ(planning.graph.nodes().size(), before);
  planning.keep_every = 1;
  ASSERT_TRUE(recompute_activations(planning).ok());
  EXPECT_GT(planning.graph.nodes().size(), before);
}

}  // namespace
}  // namespace sporkle::tensor
