#include "tensor/random_graph.h"

#include <set>

#include "hal/reference/edited_device.h"
#include "ir/text.h"
#include "tensor/testing.h"

namespace sporkle::tensor {
namespace {

using testing::context;

// Fails with the smallest graph and its kernels when the two contexts disagree.
void expect_same(const RandomGraph& graph, Context& a, Context& b, std::string_view what) {
  std::string failure;
  const auto differ = [&](const RandomGraph& candidate) {
    const auto x = run_graph(candidate, a), y = run_graph(candidate, b);
    if (x.ok() && y.ok()) return !same_values(*x, *y);
    failure = x.status().to_string() + " | " + y.status().to_string();
    return true;
  };
  if (!differ(graph)) return;
  const RandomGraph smallest = shrink(graph, differ);
  const auto kernels = kernels_of(smallest, true);
  ADD_FAILURE() << what << " differ " << failure << "\n"
                << smallest.text() << (kernels.ok() ? *kernels : kernels.status().to_string());
}

TEST(RandomGraphTest, FusionAndDeviceChangeNoBit) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    const RandomGraph graph = RandomGraph::generate(seed);
    const std::string name = "seed " + std::to_string(seed);
    expect_same(graph, context("reference"), context("reference", 2, false), name + ": fused and not on reference");
    expect_same(graph, context("cpu"), context("cpu", 2, false), name + ": fused and not on cpu");
    expect_same(graph, context("cpu"), context("reference"), name + ": cpu and reference");
  }
}

TEST(RandomGraphTest, SeedsRepeatAndReachEveryKindWithValuesThatSaySomething) {
  EXPECT_EQ(RandomGraph::generate(7).text(), RandomGraph::generate(7).text());
  EXPECT_NE(RandomGraph::generate(7).text(), RandomGraph::generate(8).text());
  std::set<GraphStep::Kind> kinds;
  size_t numbers = 0, all = 0;
  for (uint64_t seed = 0; seed < 60; ++seed) {
    const RandomGraph graph = RandomGraph::generate(seed);
    for (const GraphStep& step : graph.steps) kinds.insert(step.kind);
    const auto values = run_graph(graph, context("cpu"));
    ASSERT_TRUE(values.ok()) << values.status().to_string() << "\n" << graph.text();
    for (const auto& root : *values)
      for (const float value : root) all += 1, numbers += std::isfinite(value) && value != 0;
  }
  EXPECT_EQ(kinds.size(), static_cast<size_t>(GraphStep::Kind::uniform) + 1);
  EXPECT_GT(numbers * 4, all) << "most values are 0, infinite or NaN";
}

TEST(RandomGraphTest, ValuesCompareByBitsExceptNan) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(same_values({{1, nan}}, {{1, -nan}}));
  EXPECT_FALSE(same_values({{0.0f}}, {{-0.0f}}));
  EXPECT_FALSE(same_values({{1}}, {{std::nextafter(1.0f, 2.0f)}}));
  EXPECT_FALSE(same_values({{1}}, {{1, 1}}));
  EXPECT_FALSE(same_values({{1}}, {}));
}

// A fault of fusion: where a kernel both reduces and takes a tanh, it takes the sine instead.
std::string plant_fault(std::string kernel) {
  if (kernel.find("= reduce ") == std::string::npos) return kernel;
  for (size_t at; (at = kernel.find("= tanh ")) != std::string::npos;) kernel.replace(at, 7, "= sin ");
  return kernel;
}

TEST(RandomGraphTest, APlantedFaultIsFoundAndShrinksToAFewSteps) {
  hal::EditedDevice device(plant_fault);
  cache::KernelCache kernels(device);
  Context fused(device, kernels), unfused(device, kernels, {.fuse = false});
  const auto differ = [&](const RandomGraph& graph) {
    const auto x = run_graph(graph, fused), y = run_graph(graph, unfused);
    return x.ok() && y.ok() && !same_values(*x, *y);
  };
  int found = 0;
  for (uint64_t seed = 0; seed < 2000 && found < 3; ++seed) {
    const RandomGraph graph = RandomGraph::generate(seed, 24);
    if (!differ(graph)) continue;
    ++found;
    const RandomGraph smallest = shrink(graph, differ);
    EXPECT_LE(smallest.steps.size(), 4u) << graph.text() << "shrank to\n" << smallest.text();
    EXPECT_EQ(smallest.roots.size(), 1u);
    const auto text = kernels_of(smallest, true);
    ASSERT_TRUE(text.ok()) << text.status().to_string();
    EXPECT_NE(plant_fault(*text), *text) << "the kernels shown hold what the fault needs: " << *text;
  }
  EXPECT_EQ(found, 3);
}

TEST(RandomGraphTest, KernelsOfAGraphAreTextThatReads) {
  const RandomGraph graph{{{.kind = GraphStep::Kind::leaf, .parameter = 1, .shape = Shape{4}},
                           {.kind = GraphStep::Kind::exp, .a = 0},
                           {.kind = GraphStep::Kind::neg, .a = 1}},
                          {2}};
  const auto fused = kernels_of(graph, true);
  ASSERT_TRUE(fused.ok()) << fused.status().to_string();
  const auto kernel = ir::parse(fused->substr(0, fused->size() - 1));
  ASSERT_TRUE(kernel.ok()) << kernel.status().to_string() << *fused;
  const auto unfused = kernels_of(graph, false);
  ASSERT_TRUE(unfused.ok());
  EXPECT_NE(unfused->find("kernel", unfused->find("kernel") + 1), std::string::npos) << "two kernels without fusion";
}

}  // namespace
}  // namespace sporkle::tensor
