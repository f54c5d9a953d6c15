// The residual network: its shapes and names, that it learns real digits, and that bits do not depend on threads. Its
// layers are compared with plain loops in tensor/convolution_test.cc.
#include "nn/resnet.h"

#include <filesystem>
#include <fstream>

#include "nn/adamw.h"
#include "tensor/autograd.h"
#include "tensor/layers.h"
#include "tensor/testing.h"

namespace sporkle::nn {
namespace {

using tensor::Tensor;
using tensor::testing::context;
using tensor::testing::random_tensor;
using tensor::testing::read;
using tensor::testing::same_bits;

ResNetConfig tiny() {
  ResNetConfig config;
  config.channels = 1;
  config.width = 8;
  config.blocks = {1, 1, 1};
  return config;
}

ResNet network(tensor::Context& c, const ResNetConfig& config) {
  auto net = ResNet::create(c, config, 7);
  EXPECT_TRUE(net.ok()) << net.status().to_string();
  return std::move(*net);
}

// One step of training; the loss before it.
double step(tensor::Context& c, ResNet& net, AdamW& adamw, const Tensor& images, const Tensor& digits) {
  const Tensor loss = tensor::cross_entropy(net.training_logits(images), digits);
  const auto gradients = tensor::grad(loss, values(net.parameters()));
  EXPECT_TRUE(gradients.ok()) << gradients.status().to_string();
  adamw.update(net.parameters(), *gradients, 3e-3);
  std::vector<Tensor> results = values(net.parameters());
  adamw.append_state(&results);
  net.append_state(&results);
  results.push_back(loss);
  const Status status = tensor::realize(results);
  EXPECT_TRUE(status.ok()) << status.to_string();
  EXPECT_TRUE(c.wait().ok());
  return *loss.item();
}

TEST(ResNetTest, Has18LayersOfTheUsualSizeAndNames) {
  const ResNet net = network(context(), {});
  // torchvision's resnet18 has 11,689,512; less for a 3 x 3 stem of 3 channels and for 10 classes.
  EXPECT_EQ(net.parameter_count(), 11689512 - 64 * 3 * (49 - 9) - 990 * 513);
  EXPECT_EQ(net.parameters().front().name, "conv1.weight");
  EXPECT_EQ(net.parameters().back().name, "fc.bias");
  EXPECT_EQ(net.statistics().size(), 40u);
  bool found = false;
  for (const Parameter& p : net.parameters())
    if (p.name == "layer2.0.downsample.0.weight") {
      found = true;
      EXPECT_EQ(p.value.shape(), (tensor::Shape{128, 64, 1, 1}));
    }
  EXPECT_TRUE(found);
}

TEST(ResNetTest, LearnsToReadDigits) {
  const std::filesystem::path path = std::filesystem::path(SPORKLE_SOURCE_DIR) / "build/data/digits.csv";
  std::ifstream file(path);
  if (!file) GTEST_SKIP() << path << " is missing: run `make setup`";
  std::vector<float> pixels;
  std::vector<int32_t> digits;
  for (float value; file >> value; file.ignore(1))
    pixels.size() == (digits.size() + 1) * 64 ? digits.push_back(static_cast<int32_t>(value))
                                              : pixels.push_back(value / 16);
  ASSERT_EQ(digits.size(), 1797u);
  tensor::Context& c = context();
  const Tensor images = tensor::from_host<float>(c, pixels, {1797, 1, 8, 8});
  const Tensor names = tensor::from_host<int32_t>(c, digits, {1797});
  ResNet net = network(c, tiny());
  AdamW adamw(c, {}, net.parameters());
  constexpr int64_t kBatch = 100, kSteps = 45, kTraining = 1500;
  double first = 0, last = 0;
  for (int64_t i = 0; i < kSteps; ++i) {
    const int64_t start = i * kBatch % kTraining;
    last = step(c, net, adamw, images.slice(0, start, kBatch), names.slice(0, start, kBatch));
    if (i == 0) first = last;
  }
  EXPECT_GT(first, 2.0);
  EXPECT_LT(last, 0.3);
  // Unseen digits, normalised with the running statistics.
  const std::vector<float> scores = read(net.logits(images.slice(0, kTraining, 297)));
  int right = 0;
  for (size_t i = 0; i < 297; ++i) {
    const auto row = scores.begin() + static_cast<std::ptrdiff_t>(10 * i);
    right += std::max_element(row, row + 10) - row == digits[kTraining + i];
  }
  EXPECT_GT(right, 255) << "of 297";
}

TEST(ResNetTest, TrainsToTheSameBitsOnAnyNumberOfThreads) {
  const auto run = [](tensor::Context& c) {
    ResNet net = network(c, tiny());
    AdamW adamw(c, {}, net.parameters());
    const Tensor digits = tensor::from_host<int32_t>(c, std::vector<int32_t>{3, 1, 9, 0, 4}, {5});
    for (uint32_t i = 0; i < 2; ++i) step(c, net, adamw, random_tensor(c, {5, 1, 9, 7}, i), digits);
    std::vector<float> all;
    std::vector<Tensor> state = values(net.parameters());
    net.append_state(&state);
    for (const Tensor& one : state)
      for (const float value : read(one)) all.push_back(value);
    return all;
  };
  const std::vector<float> two = run(context("cpu"));
  EXPECT_TRUE(same_bits(two, run(context("cpu", 1))));
  EXPECT_TRUE(same_bits(two, run(context("cpu", 2, false))));
}

TEST(ResNetTest, RefusesExtentsThatMakeNoNetwork) {
  const auto refused = [](auto change) {
    ResNetConfig config;
    change(config);
    EXPECT_EQ(ResNet::create(context(), config, 1).status().code(), Code::invalid_argument);
  };
  refused([](ResNetConfig& c) { c.channels = 0; });
  refused([](ResNetConfig& c) { c.classes = -1; });
  refused([](ResNetConfig& c) { c.width = int64_t{1} << 40; });
  refused([](ResNetConfig& c) { c.blocks = {}; });
  refused([](ResNetConfig& c) { c.blocks = {2, 0}; });
}

TEST(ResNetTest, PassesOnWhatIsWrongWithTheImages) {
  ResNet net = network(context(), tiny());
  EXPECT_EQ(net.logits(tensor::zeros(context(), {2, 3, 8, 8})).status().code(), Code::invalid_argument);
  EXPECT_EQ(net.training_logits(tensor::zeros(context(), {8, 8})).status().code(), Code::invalid_argument);
  EXPECT_TRUE(net.statistics()[0].value.ok());
}

}  // namespace
}  // namespace sporkle::nn
