#include "tensor/passes/passes.h"

#include "tensor/passes/testing.h"
#include "tensor/random_graph.h"

namespace sporkle::tensor {
namespace {

TEST(PassesTest, EachHasANameAndLeavingAnyOutChangesNoBit) {
  for (const Pass& pass : passes()) {
    EXPECT_FALSE(pass.name.empty());
    EXPECT_FALSE(pass.effect.empty());
    if (!pass.optional) continue;
    for (uint64_t seed = 0; seed < 25; ++seed) {
      const RandomGraph graph = RandomGraph::generate(seed, 20);
      const auto with = run_graph(graph, testing::context_without(""));
      const auto without = run_graph(graph, testing::context_without(pass.name));
      ASSERT_TRUE(with.ok() && without.ok()) << with.status().to_string() << without.status().to_string();
      EXPECT_TRUE(same_values(*with, *without)) << pass.name << "\n" << graph.text();
    }
  }
}

TEST(PassesTest, AllOfThemTogetherChangeNoBit) {
  for (uint64_t seed = 100; seed < 150; ++seed) {
    const RandomGraph graph = RandomGraph::generate(seed, 30);
    const auto with = run_graph(graph, testing::context_without("", "cpu"));
    const auto without = run_graph(graph, testing::context_without("any", "reference"));
    ASSERT_TRUE(with.ok() && without.ok()) << with.status().to_string() << without.status().to_string();
    EXPECT_TRUE(same_values(*with, *without)) << graph.text();
  }
}

TEST(PassesTest, DeadCodeIsWhatNoRootNeeds) {
  Context& c = testing::context("reference");
  const Tensor x = testing::random_tensor(c, {4}, 1);
  Planning planning = testing::planning_of({exp(x) + x});
  // Every reader takes the operand of exp instead.
  planning.graph.substitute([](const NodeRef& node) { return node->op == Op::exp ? node->inputs[0] : node; });
  planning.graph.add(exp(exp(x)).node());
  ASSERT_TRUE(drop_dead_code(planning).ok());
  ASSERT_EQ(planning.graph.nodes().size(), 1u);
  EXPECT_EQ(planning.graph.nodes()[0]->op, Op::add);
}

}  // namespace
}  // namespace sporkle::tensor
