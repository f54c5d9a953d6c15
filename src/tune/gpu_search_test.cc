#include "tune/gpu_search.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace sporkle::tune {
namespace {

const codegen::VulkanTarget kTarget = *codegen::VulkanTarget::parse("vulkan:amd,fma32,workgroup1024,shared64");
const ProductShape kShape{4, 1, 1000, 1000, 1000, true, true, 4000};

// A device on which one tile is the best, and others the slower the further they are from it.
struct Machine {
  GpuTile best{64, 256, 16, 8, 8};
  double clock = 0;

  double seconds(const GpuPlan& plan) const {
    if (plan.by_element) return 10;
    const auto far = [](int64_t a, int64_t b) {
      return std::abs(std::log2(static_cast<double>(a) / static_cast<double>(b)));
    };
    const GpuTile& t = plan.tile;
    return 1 + 0.1 * (far(t.rows, best.rows) + far(t.columns, best.columns) + far(t.depth, best.depth) +
                      far(t.own_rows, best.own_rows) + far(t.own_columns, best.own_columns));
  }
  auto measure() {
    return [this](const GpuPlan& plan) -> Result<double> {
      clock += 1;
      return seconds(plan);
    };
  }
  SearchOptions options(double budget) {
    SearchOptions options;
    options.budget_seconds = budget;
    options.now_seconds = [this] { return clock; };
    return options;
  }
};

TEST(GpuSearch, FindsABetterPlanThanThePresets) {
  Machine machine;
  const auto found = search_gpu_plan(kShape, kTarget, {}, machine.measure(), machine.options(2000));
  ASSERT_TRUE(found.ok()) << found.status().to_string();
  const GpuPlan usual = preset_gpu_plan(kShape, kTarget);
  EXPECT_EQ(found->best.usual_seconds, machine.seconds(usual));
  EXPECT_LT(found->best.seconds, found->best.usual_seconds);
  EXPECT_TRUE(gpu_plan_applies(found->best.plan, kShape, kTarget));
  EXPECT_TRUE(found->exhausted);
}

TEST(GpuSearch, KeepsToItsBudget) {
  Machine machine;
  const auto found = search_gpu_plan(kShape, kTarget, {}, machine.measure(), machine.options(5));
  ASSERT_TRUE(found.ok());
  EXPECT_EQ(found->measured, 5);
}

TEST(GpuSearch, PassesOverPlansThatFailButNotThePreset) {
  Machine machine;
  const GpuPlan usual = preset_gpu_plan(kShape, kTarget);
  const auto others_fail = [&](const GpuPlan& plan) -> Result<double> {
    machine.clock += 1;
    if (plan == usual) return 1.0;
    return unsupported("no");
  };
  const auto found = search_gpu_plan(kShape, kTarget, {}, others_fail, machine.options(50));
  ASSERT_TRUE(found.ok());
  EXPECT_EQ(found->best.plan, usual);
  const auto all_fail = [&](const GpuPlan&) -> Result<double> { return unsupported("no"); };
  EXPECT_EQ(search_gpu_plan(kShape, kTarget, {}, all_fail, machine.options(50)).status().code(), Code::unsupported);
}

TEST(GpuNeighbours, AllApplyAndDiffer) {
  const GpuPlan usual = preset_gpu_plan(kShape, kTarget);
  const std::vector<GpuPlan> plans = gpu_neighbours(usual, kShape, kTarget);
  EXPECT_GT(plans.size(), 10u);
  for (const GpuPlan& plan : plans) {
    EXPECT_TRUE(gpu_plan_applies(plan, kShape, kTarget)) << plan.text();
    EXPECT_NE(plan, usual);
  }
  // Single elements are worth a try where there are few rows, and tiles where those are the preset.
  ProductShape thin = kShape;
  thin.rows = 8;
  const GpuPlan tile = preset_gpu_plan(thin, kTarget), elements{true, {}};
  const std::vector<GpuPlan> of_few = gpu_neighbours(tile, thin, kTarget);
  EXPECT_NE(std::ranges::find(of_few, elements), of_few.end());
  thin.rows = 1;
  EXPECT_FALSE(gpu_neighbours(elements, thin, kTarget).empty());
}

}  // namespace
}  // namespace sporkle::tune
