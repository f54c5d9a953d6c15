#include "bench/tune_products.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/file.h"
#include "base/temporary_folder.h"
#include "hal/registry.h"

namespace sporkle::bench {
namespace {

using tune::ProductPlan;
using tune::ProductShape;

TEST(TunedShape, Parses) {
  const auto shape = parse_tuned_shape("2*64x32x16:tn@f64");
  ASSERT_TRUE(shape.ok()) << shape.status().to_string();
  EXPECT_EQ(shape->key(), "f64 tn 2x64x32x16");
  EXPECT_EQ(parse_tuned_shape("64x32x16")->key(), "f32 nn 1x64x32x16");
}

TEST(TunedShape, SaysWhatIsWrong) {
  for (const char* text : {"", "64x32", "64x32x0", "64x32x16:nx", "64x32x16@f16", "0*4x4x4", "99999999x1x1"}) {
    const auto shape = parse_tuned_shape(text);
    EXPECT_EQ(shape.status().code(), Code::invalid_argument) << text;
  }
}

TEST(TunedShape, ModelsGiveForwardAndBackwardOnce) {
  train::ModelConfig model;
  model.width = 64;
  model.context = 32;
  const std::vector<ProductShape> shapes = shapes_of_model(model, 2, 256);
  std::vector<std::string> keys;
  for (const ProductShape& shape : shapes) keys.push_back(shape.key());
  for (const char* wanted : {"f32 nn 1x64x192x64", "f32 nt 1x64x64x192", "f32 tn 1x64x192x64", "f32 nt 1x64x256x64"})
    EXPECT_NE(std::ranges::find(keys, wanted), keys.end()) << wanted;
  std::ranges::sort(keys);
  EXPECT_EQ(std::ranges::unique(keys).size(), 0u);
}

TEST(ProductTimer, TellsABadPlanFromAGoodOne) {
  const auto timer = ProductTimer::create(*parse_tuned_shape("256x256x256"), 1);
  ASSERT_TRUE(timer.ok()) << timer.status().to_string();
  ProductPlan bad = tune::preset_plan(*parse_tuned_shape("256x256x256"), (*timer)->processor());
  const auto good_seconds = (*timer)->seconds(bad);
  bad.rows = bad.vectors = bad.unroll = 1;
  const auto bad_seconds = (*timer)->seconds(bad);
  ASSERT_TRUE(good_seconds.ok() && bad_seconds.ok());
  EXPECT_LT(*good_seconds, *bad_seconds);
}

TEST(TuneProducts, WritesADatabaseAndGoesOnFromIt) {
  const auto folder = TemporaryFolder::create("tune_products_test");
  ASSERT_TRUE(folder.ok());
  TuneOptions options;
  options.shapes = {*parse_tuned_shape("48x64x32")};
  options.budget_seconds = 0.3;
  options.database = folder->path() / "tuning.txt";
  int fresh = 0, known = 0;
  options.on_result = [&](const ProductShape&, const tune::TunedProduct& result, int, bool had) {
    EXPECT_GT(result.seconds, 0);
    EXPECT_LE(result.seconds, result.usual_seconds);
    (had ? known : fresh) += 1;
  };
  ASSERT_TRUE(tune_products(options).ok());
  options.shapes.push_back(*parse_tuned_shape("4x600x64"));
  ASSERT_TRUE(tune_products(options).ok());
  EXPECT_EQ(fresh, 2);
  EXPECT_EQ(known, 1);
  EXPECT_EQ(tune::Database::load(options.database)->size(), 2u);
}

TEST(TuneProducts, SaysThatADatabaseIsCorruptAndBeginsAnew) {
  const auto folder = TemporaryFolder::create("tune_products_test");
  ASSERT_TRUE(folder.ok());
  TuneOptions options;
  options.shapes = {*parse_tuned_shape("8x8x8")};
  options.budget_seconds = 0;
  options.database = folder->path() / "tuning.txt";
  ASSERT_TRUE(write_file_atomically(options.database, std::string_view("nonsense\n")).ok());
  std::string notice;
  options.on_notice = [&](const std::string& text) { notice = text; };
  ASSERT_TRUE(tune_products(options).ok());
  EXPECT_NE(notice.find("line 1"), std::string::npos) << notice;
  EXPECT_EQ(tune::Database::load(options.database)->size(), 1u);
}

TEST(TuneProducts, OnAGpuWritesItsPlansAndGoesOnFromThem) {
  const auto device = hal::open_device("vulkan:0");
  if (!device.ok()) GTEST_SKIP() << device.status().message();
  const auto target = *codegen::VulkanTarget::parse((*device)->info().target);
  const auto folder = TemporaryFolder::create("tune_products_test");
  ASSERT_TRUE(folder.ok());
  TuneOptions options;
  options.device = "vulkan:0";
  options.shapes = {*parse_tuned_shape("96x80x64"), *parse_tuned_shape("2*8x40x32:nt")};
  options.budget_seconds = 3;
  options.database = folder->path() / "tuning.txt";
  int fresh = 0, known = 0, plans = 0;
  options.on_gpu_result = [&](const ProductShape& shape, const tune::TunedGpuProduct& result, int measured, bool had) {
    EXPECT_GT(result.seconds, 0);
    EXPECT_LE(result.seconds, result.usual_seconds);
    EXPECT_TRUE(tune::gpu_plan_applies(result.plan, shape, target)) << result.plan.text();
    (had ? known : fresh) += 1;
    plans += measured;
  };
  const Status status = tune_products(options);
  ASSERT_TRUE(status.ok()) << status.to_string();
  EXPECT_EQ(fresh, 2);
  EXPECT_GE(plans, 3);  // more than the presets
  ASSERT_TRUE(tune_products(options).ok());
  EXPECT_EQ(known, 2);
  const auto database = tune::Database::load(options.database);
  ASSERT_TRUE(database.ok()) << database.status().to_string();
  EXPECT_NE(database->find(tune::gpu_key((*device)->info().name, target), options.shapes[0]), nullptr);
}

TEST(TuneProducts, RefusesADeviceThatHasNoPlans) {
  TuneOptions options;
  options.device = "reference";
  options.shapes = {*parse_tuned_shape("8x8x8")};
  EXPECT_EQ(tune_products(options).code(), Code::unsupported);
  options.device = "vulkan:99";
  EXPECT_FALSE(tune_products(options).ok());
}

}  // namespace
}  // namespace sporkle::bench
