#include "tune/search.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace sporkle::tune {
namespace {

constexpr Processor kZen4{Microarchitecture::zen4, 64, 1};
const ProductShape kShape{4, 1, 1000, 1000, 1000, true, true, 4000};

// A machine on which one plan is the best, and others the slower the further they are from it.
struct Machine {
  ProductPlan best{ProductPlan::Kind::packed, 3, 5, 2, 512, 0, 0};
  double clock = 0;
  int measured = 0;

  double seconds(const ProductPlan& p) const {
    const auto far = [](double a, double b) { return std::abs(std::log2(a / b)); };
    double distance = far(p.rows, best.rows) + far(p.vectors, best.vectors) + far(p.unroll, best.unroll) +
                      far(static_cast<double>(p.depth), static_cast<double>(best.depth));
    if (p.kind != best.kind) distance += 4;
    if (p.block_rows != best.block_rows) distance += 1;
    return 1 + 0.1 * distance;
  }
  MeasurePlan measure() {
    return [this](const ProductPlan& plan) -> Result<double> {
      ++measured;
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

TEST(Search, FindsABetterPlanThanAPlantedBadOne) {
  Machine machine;
  const ProductPlan bad{ProductPlan::Kind::packed, 1, 1, 1, 256, 0, 0};
  const auto found = search_plan(kShape, kZen4, {bad}, machine.measure(), machine.options(2000));
  ASSERT_TRUE(found.ok()) << found.status().to_string();
  EXPECT_LT(found->best.seconds, machine.seconds(bad));
  EXPECT_LT(found->best.seconds, machine.seconds(preset_plan(kShape, kZen4)));
  EXPECT_EQ(found->best.usual_seconds, machine.seconds(preset_plan(kShape, kZen4)));
  EXPECT_TRUE(found->exhausted);
}

TEST(Search, KeepsToItsBudget) {
  Machine machine;
  const auto found = search_plan(kShape, kZen4, {}, machine.measure(), machine.options(7));
  ASSERT_TRUE(found.ok());
  EXPECT_EQ(found->measured, 7);
  EXPECT_EQ(machine.measured, 7);
  EXPECT_FALSE(found->exhausted);
}

TEST(Search, MeasuresNoPlanTwice) {
  Machine machine;
  std::vector<std::string> seen;
  const MeasurePlan measure = [&](const ProductPlan& plan) -> Result<double> {
    seen.push_back(plan.text());
    machine.clock += 1;
    return machine.seconds(plan);
  };
  ASSERT_TRUE(search_plan(kShape, kZen4, {preset_plan(kShape, kZen4)}, measure, machine.options(100)).ok());
  std::vector<std::string> sorted = seen;
  std::ranges::sort(sorted);
  EXPECT_EQ(std::ranges::unique(sorted).size(), 0u);
  EXPECT_GT(seen.size(), 20u);
}

TEST(Search, KeepsThePresetWhenNothingIsBetter) {
  Machine machine;
  machine.best = preset_plan(kShape, kZen4);
  const auto found = search_plan(kShape, kZen4, {}, machine.measure(), machine.options(50));
  ASSERT_TRUE(found.ok());
  EXPECT_EQ(found->best.plan, machine.best);
}

TEST(Search, PassesOverPlansThatFailAndReportsAFailingPreset) {
  Machine machine;
  const ProductPlan usual = preset_plan(kShape, kZen4);
  const MeasurePlan others_fail = [&](const ProductPlan& plan) -> Result<double> {
    machine.clock += 1;
    if (plan == usual) return 1.0;
    return internal_error("no");
  };
  const auto found = search_plan(kShape, kZen4, {}, others_fail, machine.options(30));
  ASSERT_TRUE(found.ok());
  EXPECT_EQ(found->best.plan, usual);
  const MeasurePlan all_fail = [](const ProductPlan&) -> Result<double> { return internal_error("no"); };
  EXPECT_FALSE(search_plan(kShape, kZen4, {}, all_fail, machine.options(30)).ok());
}

TEST(Search, NeighboursApplyAndDiffer) {
  for (const int64_t m : {1, 4, 100, 1000}) {
    const ProductShape shape{4, 1, m, 1000, 300, true, m != 100, 4000};
    const ProductPlan plan = preset_plan(shape, kZen4);
    const std::vector<ProductPlan> all = neighbours(plan, shape, kZen4);
    EXPECT_GT(all.size(), 20u);
    for (const ProductPlan& other : all) {
      EXPECT_NE(other, plan);
      EXPECT_TRUE(plan_applies(other, shape, kZen4)) << other.text();
      EXPECT_TRUE(ProductPlan::parse(other.text()).ok()) << other.text();
    }
  }
}

TEST(Search, TheModelPrefersTilesThatFillTheProcessor) {
  const ProductPlan wide{ProductPlan::Kind::packed, 6, 4, 4, 1024, 0, 0};
  ProductPlan narrow = wide;
  narrow.rows = narrow.vectors = 1;
  EXPECT_LT(expected_cycles(wide, kShape, kZen4), expected_cycles(narrow, kShape, kZen4));
  Processor many = kZen4;
  many.threads = 16;
  EXPECT_LT(expected_cycles(wide, kShape, many), expected_cycles(wide, kShape, kZen4));
}

}  // namespace
}  // namespace sporkle::tune
