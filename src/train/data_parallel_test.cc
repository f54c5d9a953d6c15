#include "train/data_parallel.h"

#include <gtest/gtest.h>

#include <numeric>

#include "hal/registry.h"
#include "train/testing_lost_device.h"

namespace sporkle::train {
namespace {

ModelShape small_shape() {
  ModelShape shape;
  shape.layers = 1;
  shape.heads = 2;
  shape.width = 16;
  shape.context = 16;
  shape.vocab_size = 64;
  shape.dropout = 0.1;
  return shape;
}

constexpr int64_t kRows = 8, kParts = 4;

std::unique_ptr<LanguageModel> model_on(const std::string& device, int threads = 1) {
  auto model = LanguageModel::create(small_shape(), OptimizationConfig(), {device, threads});
  EXPECT_TRUE(model.ok()) << model.status().to_string();
  return model.ok() ? std::move(*model) : nullptr;
}

struct Data {
  std::vector<int32_t> inputs, targets;
  Batch batch() const { return {inputs, targets, kRows}; }
};
Data data_of(int64_t step) {
  Data data;
  for (int64_t i = 0; i < kRows * 16; ++i) {
    data.inputs.push_back(static_cast<int32_t>((i * 7 + step * 13) % 64));
    data.targets.push_back(static_cast<int32_t>((i * 7 + step * 13 + 7) % 64));
  }
  return data;
}

std::string trained_alone() {
  const auto model = model_on("cpu");
  for (int64_t step = 0; step < 5; ++step) {
    const auto result = model->step(data_of(step).batch(), kParts, 1e-2, {1, static_cast<uint64_t>(step)});
    EXPECT_TRUE(result.ok()) << result.status().to_string();
  }
  return *parameters_sha256_hex(*model);
}

void expect_the_same_bits(const std::string& other_device) {
  const auto first = model_on("cpu");
  std::vector<std::unique_ptr<LanguageModel>> others;
  others.push_back(model_on(other_device));
  auto group = DataParallel::create(*first, std::move(others));
  ASSERT_TRUE(group.ok()) << group.status().to_string();
  for (int64_t step = 0; step < 5; ++step) {
    const Data data = data_of(step);
    const auto result = (*group)->step(data.batch(), kParts, 1e-2, {1, static_cast<uint64_t>(step)});
    ASSERT_TRUE(result.ok()) << result.status().to_string();
    EXPECT_EQ(std::accumulate((*group)->last_split().begin(), (*group)->last_split().end(), int64_t{0}), kParts);
    if (step == 0) {
      EXPECT_GT((*group)->last_split()[1], 0) << "the second device was given nothing";
    }
  }
  EXPECT_EQ(*parameters_sha256_hex(*first), trained_alone());
}

TEST(DataParallel, TwoDevicesGiveTheBitsOfOne) { expect_the_same_bits("cpu"); }

TEST(DataParallel, AGpuAndTheProcessorGiveTheBitsOfOne) {
  const auto vulkan = hal::open_device("vulkan:0");
  if (!vulkan.ok()) GTEST_SKIP() << vulkan.status().message();
  expect_the_same_bits("vulkan:0");
}

// Wherever it is lost: the first device makes what it leaves, and it has parts of the next step.
TEST(DataParallel, GoesOnWhereverASecondDeviceIsLost) {
  const std::string alone = trained_alone();
  for (int64_t number = 0; number < 16; ++number) {
    testing::Losing losing({number});
    const auto open = [&](size_t = 0) {
      DeviceChoice choice{"cpu", 1};
      choice.open_context = [&losing] { return losing.open(); };
      return LanguageModel::create(small_shape(), OptimizationConfig(), choice);
    };
    const auto first = model_on("cpu");
    std::vector<std::unique_ptr<LanguageModel>> others;
    others.push_back(std::move(*open()));
    auto group = DataParallel::create(*first, std::move(others), open);
    ASSERT_TRUE(group.ok()) << group.status().to_string();
    for (int64_t step = 0; step < 5; ++step) {
      const Data data = data_of(step);
      const auto result = (*group)->step(data.batch(), kParts, 1e-2, {1, static_cast<uint64_t>(step)});
      ASSERT_TRUE(result.ok()) << number << ": " << result.status().to_string();
    }
    EXPECT_EQ(*parameters_sha256_hex(*first), alone) << number;
    if (number < 2) {
      EXPECT_EQ(losing.opened(), 2u);
    }
  }
}

TEST(DataParallel, SplitsBySpeed) {
  EXPECT_EQ(split_parts(8, std::array{1.0, 1.0}), (std::vector<int64_t>{4, 4}));
  EXPECT_EQ(split_parts(8, std::array{3.0, 1.0}), (std::vector<int64_t>{2, 6}));
  EXPECT_EQ(split_parts(4, std::array{100.0, 1.0}), (std::vector<int64_t>{0, 4}));
  EXPECT_EQ(split_parts(6, std::array{0.0, 0.0, 0.0}), (std::vector<int64_t>{2, 2, 2}));
  EXPECT_EQ(split_parts(6, std::array{1.0, 0.0}), (std::vector<int64_t>{3, 3}));
}

TEST(DataParallel, RefusesAStepOfTooFewParts) {
  const auto first = model_on("cpu");
  std::vector<std::unique_ptr<LanguageModel>> others;
  others.push_back(model_on("cpu"));
  auto group = DataParallel::create(*first, std::move(others));
  ASSERT_TRUE(group.ok());
  const auto result = (*group)->step(data_of(0).batch(), 1, 1e-2, {1, 0});
  EXPECT_EQ(result.status().code(), Code::invalid_argument);
  EXPECT_NE(result.status().message().find("gradient_accumulation"), std::string::npos);
}

TEST(DataParallel, ReadsListsOfDevices) {
  EXPECT_EQ(*hal::parse_device_list("cpu,vulkan:1"), (std::vector<std::string>{"cpu", "vulkan:1"}));
  EXPECT_EQ(hal::parse_device_list("cpu,,vulkan").status().code(), Code::invalid_argument);
  EXPECT_EQ(hal::parse_device_list("cpu,cpu").status().code(), Code::invalid_argument);
}

}  // namespace
}  // namespace sporkle::train
