#include "tensor/passes/memory_plan.h"

#include <gtest/gtest.h>

#include <random>

namespace sporkle::tensor {
namespace {

bool meet(const Lifetime& a, const Lifetime& b) { return a.first <= b.last && b.first <= a.last; }

void expect_apart(const std::vector<Lifetime>& values, const Placement& placement) {
  ASSERT_EQ(placement.offsets.size(), values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(placement.offsets[i] % kPlacementAlignment, 0u);
    EXPECT_LE(placement.offsets[i] + values[i].size_bytes, placement.size_bytes);
    for (size_t j = 0; j < i; ++j) {
      if (!meet(values[i], values[j])) continue;
      const bool before = placement.offsets[i] + values[i].size_bytes <= placement.offsets[j];
      const bool after = placement.offsets[j] + values[j].size_bytes <= placement.offsets[i];
      EXPECT_TRUE(before || after) << i << " and " << j;
    }
  }
}

TEST(MemoryPlanTest, AChainNeedsTwoPlaces) {
  std::vector<Lifetime> values;
  for (int i = 0; i < 10; ++i) values.push_back({1024, i, i + 1});
  const Placement placement = place(values);
  expect_apart(values, placement);
  EXPECT_EQ(placement.size_bytes, 2048u);
  EXPECT_EQ(peak_bytes(values), 2048u);
}

TEST(MemoryPlanTest, GapsAreFilledAndNothingIsEmpty) {
  EXPECT_EQ(place({}).size_bytes, 0u);
  EXPECT_EQ(peak_bytes({}), 0u);
  const std::vector<Lifetime> values{{4096, 0, 9}, {512, 0, 2}, {512, 4, 9}, {256, 3, 3}, {1, 5, 5}};
  const Placement placement = place(values);
  expect_apart(values, placement);
  EXPECT_EQ(placement.size_bytes, peak_bytes(values));
}

TEST(MemoryPlanTest, NoValueLiesInTwoSegments) {
  constexpr size_t kSegment = size_t{1} << 17;
  std::mt19937 random(2);
  for (int trial = 0; trial < 20; ++trial) {
    std::vector<Lifetime> values;
    for (int i = 0; i < 60; ++i) {
      const int first = static_cast<int>(random() % 40);
      values.push_back({1 + random() % 100000, first, first + static_cast<int>(random() % 20)});
    }
    const Placement placement = place(values, kSegment + 3);
    expect_apart(values, placement);
    for (size_t i = 0; i < values.size(); ++i)
      EXPECT_EQ(placement.offsets[i] / kSegment, (placement.offsets[i] + values[i].size_bytes - 1) / kSegment);
  }
}

TEST(MemoryPlanTest, RandomValuesLieApartAndNearThePeak) {
  std::mt19937 random(1);
  size_t planned = 0, least = 0;
  for (int trial = 0; trial < 50; ++trial) {
    std::vector<Lifetime> values;
    for (int i = 0; i < 60; ++i) {
      const int first = static_cast<int>(random() % 100);
      values.push_back({1 + random() % 100000, first, first + static_cast<int>(random() % 20)});
    }
    const Placement placement = place(values);
    expect_apart(values, placement);
    EXPECT_GE(placement.size_bytes, peak_bytes(values));
    planned += placement.size_bytes;
    least += peak_bytes(values);
  }
  EXPECT_LT(static_cast<double>(planned), 1.15 * static_cast<double>(least));
}

}  // namespace
}  // namespace sporkle::tensor
