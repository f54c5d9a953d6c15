#include "lower/schedule_space.h"

#include <gtest/gtest.h>

#include <set>

#include "dsl/kernel.h"
#include "lower/lower.h"

namespace sporkle::lower {
namespace {

Schedule parse(std::string_view text) { return *Schedule::parse(text); }

TEST(ScheduleSpaceTest, HoldsOnlyTheEmptyScheduleAroundIt) {
  const ScheduleSpace space{Schedule{}};
  EXPECT_EQ(space.size(), 1u);
  EXPECT_EQ(space.at(0).text(), "");
}

TEST(ScheduleSpaceTest, StartsWithTheGivenScheduleAndRepeatsNone) {
  const ScheduleSpace space(parse("t:thread m:tile5 n:vec8x3 k:unroll4"));
  EXPECT_EQ(space.at(0).text(), "t:thread m:tile5 n:vec8x3 k:unroll4");
  std::set<std::string> texts;
  for (uint64_t i = 0; i < space.size(); ++i) texts.insert(space.at(i).text());
  EXPECT_EQ(texts.size(), space.size());
  EXPECT_GT(space.size(), 1000u);
  for (const char* other : {"t:thread16 m:tile5 n:vec8x3 k:unroll4", "t:thread m:tile8 n:vec16x4 k:unroll1",
                            "t:thread n:vec4 k:unroll4", "t:thread m:tile5 k:unroll8"})
    EXPECT_TRUE(texts.count(other)) << other;
}

// Every text reads back as itself; single iterations are tried for a block, and what addresses must allow stays.
TEST(ScheduleSpaceTest, HoldsSchedulesThatCanBeWritten) {
  const ScheduleSpace space(parse("i:thread64 lane:pack4 i:stream"));
  std::set<std::string> texts;
  for (uint64_t i = 0; i < space.size(); ++i) {
    const std::string text = space.at(i).text();
    const auto parsed = Schedule::parse(text);
    ASSERT_TRUE(parsed.ok()) << parsed.status().to_string();
    EXPECT_EQ(parsed->text(), text);
    EXPECT_NE(text.find("lane:pack4 i:stream"), std::string::npos) << text;
    texts.insert(text);
  }
  EXPECT_EQ(ScheduleSpace(parse("i:thread64")).size(), 6u);  // 64, single ones, and four blocks
}

TEST(ScheduleSpaceTest, KernelsAcceptEveryScheduleOfTheirSpace) {
  const ir::Kernel kernel = dsl::trace("scale", [](dsl::KernelBuilder& k) {
    const dsl::Buffer x = k.input(ir::DType::f32, "x"), y = k.output(ir::DType::f32, "y");
    const dsl::Expr n = k.size("n");
    k.range("i", n, [&](dsl::Expr i) { y.store(i, x[i] * dsl::constant(ir::DType::f32, 3)); });
  });
  const ScheduleSpace space(parse("i:thread64 i:vec8"));
  for (uint64_t i = 0; i < space.size(); ++i) {
    const auto lowered = lower(kernel, space.at(i));
    EXPECT_TRUE(lowered.ok()) << lowered.status().to_string();
  }
}

}  // namespace
}  // namespace sporkle::lower
