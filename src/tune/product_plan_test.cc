#include "tune/product_plan.h"

#include <gtest/gtest.h>

namespace sporkle::tune {
namespace {

using Kind = ProductPlan::Kind;

ProductShape shape(int64_t rows, int64_t columns, int64_t depth) {
  return {4, 1, rows, columns, depth, true, true, 4 * columns};
}
constexpr Processor kZen4{Microarchitecture::zen4, 64, 1};

TEST(ProductPlan, TextRoundTrips) {
  const ProductPlan plan{Kind::slabs, 6, 3, 8, 16, 384, 1024};
  EXPECT_EQ(plan.text(), "slabs 6x3 unroll8 depth16 block384x1024");
  const auto parsed = ProductPlan::parse(plan.text());
  ASSERT_TRUE(parsed.ok()) << parsed.status().to_string();
  EXPECT_EQ(*parsed, plan);
}

TEST(ProductPlan, ParseSaysWhatIsWrong) {
  const auto message = [](std::string_view text) { return ProductPlan::parse(text).status().message(); };
  EXPECT_NE(message("boxed 5x4").find("none of packed"), std::string::npos);
  EXPECT_NE(message("packed 5x4 unroll4").find("is not what follows"), std::string::npos);
  EXPECT_NE(message("packed 0x4 unroll4 depth2048 block0x0").find("1 to 32 rows"), std::string::npos);
  EXPECT_NE(message("packed 5x4 unroll4 depth0 block0x0").find("out of range"), std::string::npos);
  EXPECT_NE(message("packed 5x4 unroll4 depth9 block0x0 more").find("\" more\""), std::string::npos);
  EXPECT_NE(message("packed 99999999999999999999x4 unroll4 depth9 block0x0").find("not what follows"),
            std::string::npos);
}

TEST(ProductPlan, PresetsApplyToEveryShapeOnEveryProcessor) {
  for (const Microarchitecture one : {Microarchitecture::generic, Microarchitecture::zen4})
    for (const int vector : {16, 32, 64})
      for (const int threads : {1, 2, 64})
        for (const int64_t m : {1, 2, 5, 16, 64, 96, 1000, 4096})
          for (const int64_t n : {1, 2, 15, 16, 96, 100, 1000, 50257})
            for (const int64_t k : {0, 1, 7, 100, 3000})
              for (const int bits : {0, 1, 2, 3})
                for (const int bytes : {4, 8}) {
                  const ProductShape s{bytes, 1, m, n, k, (bits & 1) != 0, (bits & 2) != 0, bytes * n};
                  const Processor processor{one, vector, threads};
                  const ProductPlan plan = preset_plan(s, processor);
                  ASSERT_TRUE(plan_applies(plan, s, processor)) << s.key() << " " << processor.key() << plan.text();
                  const auto parsed = ProductPlan::parse(plan.text());
                  ASSERT_TRUE(parsed.ok()) << parsed.status().to_string();
                }
}

TEST(ProductPlan, KindFollowsFromTheShape) {
  EXPECT_EQ(preset_plan(shape(1024, 1024, 1024), kZen4).kind, Kind::packed);
  EXPECT_EQ(preset_plan(shape(96, 96, 96), kZen4).vectors, 6);  // one panel takes in all columns
  EXPECT_EQ(preset_plan(shape(4, 3072, 768), kZen4).kind, Kind::slabs);
  EXPECT_EQ(preset_plan(shape(1000, 1000, 1), kZen4).kind, Kind::slabs);
  EXPECT_EQ(preset_plan(shape(1000, 1, 1000), kZen4).kind, Kind::in_place);
  ProductShape turned = shape(4, 3072, 768);
  turned.b_in_rows = false;
  EXPECT_EQ(preset_plan(turned, kZen4).kind, Kind::in_place);
  turned.rows = 8;
  EXPECT_EQ(preset_plan(turned, kZen4).kind, Kind::packed);
}

TEST(ProductPlan, TilesThatDoNotFitTheRegistersDoNotApply) {
  const ProductPlan large{Kind::packed, 12, 4, 4, 2048, 0, 0};
  EXPECT_FALSE(plan_applies(large, shape(1024, 1024, 1024), kZen4));
  const ProductPlan fits{Kind::packed, 6, 4, 4, 2048, 0, 0};
  EXPECT_TRUE(plan_applies(fits, shape(1024, 1024, 1024), kZen4));
  EXPECT_FALSE(plan_applies(fits, shape(1024, 1024, 1024), {Microarchitecture::zen4, 32, 1}));
}

TEST(ProductPlan, EveryThreadGetsABlock) {
  const Processor many{Microarchitecture::zen4, 64, 8};
  const ProductPlan plan = preset_plan(shape(4096, 64, 4096), many);
  EXPECT_GT(plan.block_rows, 0);
  EXPECT_LE(plan.block_rows, 4096 / 16);
}

}  // namespace
}  // namespace sporkle::tune
