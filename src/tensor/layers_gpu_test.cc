// Layers on a GPU beside a processor's, where they are computed in another way.
#include <gtest/gtest.h>

#include <array>

#include "tensor/autograd.h"
#include "tensor/layers.h"
#include "tensor/testing.h"

namespace sporkle::tensor {
namespace {

using testing::random_tensor;
using testing::read;

struct Machine {
  std::shared_ptr<hal::Device> device;
  std::unique_ptr<cache::KernelCache> kernels;
  std::unique_ptr<Context> context;
};
// None where there is no such device.
std::optional<Machine> gpu(ir::Numerics numerics) {
  auto device = hal::open_device("vulkan:0");
  if (!device.ok()) return std::nullopt;
  Machine machine{std::move(*device), nullptr, nullptr};
  machine.kernels = std::make_unique<cache::KernelCache>(*machine.device);
  machine.context = std::make_unique<Context>(*machine.device, *machine.kernels, ContextOptions{.numerics = numerics});
  return machine;
}

std::vector<float> embedding_gradient(Context& c, int64_t rows, int64_t width, int64_t count) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) tokens.push_back(static_cast<int32_t>(i * i % 97 * (rows / 97) + i % 2));
  const Tensor weight = random_tensor(c, {rows, width}, 1);
  const Tensor y = embedding(weight, from_host<int32_t>(c, tokens, {count}));
  const auto gradients = grad(sum(y * random_tensor(c, {count, width}, 2)), std::array{weight});
  EXPECT_TRUE(gradients.ok()) << gradients.status().to_string();
  return read((*gradients)[0]);
}

void expect_close(const std::vector<float>& found, const std::vector<float>& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) ASSERT_NEAR(found[i], expected[i], 1e-4) << i;
}

// By a product where the table is small, token after token where it is large.
TEST(LayersOnAGpu, EmbeddingGradientsHaveTheBitsOfAProcessors) {
  const auto machine = gpu(ir::Numerics::strict);
  if (!machine) GTEST_SKIP() << "no device vulkan:0";
  for (const auto& [rows, count] : {std::pair<int64_t, int64_t>{200, 300}, {20000, 1100}})
    EXPECT_TRUE(testing::same_bits(embedding_gradient(*machine->context, rows, 8, count),
                                   embedding_gradient(testing::context(), rows, 8, count)))
        << rows;
}

// 1100 tokens in eight parts, the last of which is shorter.
TEST(LayersOnAGpu, LargeEmbeddingsAreSummedInPartsUnderFastNumerics) {
  const auto machine = gpu(ir::Numerics::fast);
  if (!machine) GTEST_SKIP() << "no device vulkan:0";
  expect_close(embedding_gradient(*machine->context, 20000, 72, 1100),
               embedding_gradient(testing::context(), 20000, 72, 1100));
}

TEST(LayersOnAGpu, NormsAndLossesAreCloseUnderFastNumerics) {
  const auto machine = gpu(ir::Numerics::fast);
  if (!machine) GTEST_SKIP() << "no device vulkan:0";
  const auto results = [](Context& c) {
    const Tensor x = random_tensor(c, {70, 100}, 1), weight = random_tensor(c, {300, 100}, 2);
    const Tensor scale = random_tensor(c, {100}, 3), shift = random_tensor(c, {100}, 4);
    std::vector<int32_t> targets;
    for (int32_t i = 0; i < 70; ++i) targets.push_back(i * 4);
    const Tensor loss =
        linear_cross_entropy(layer_norm(x, scale, shift, 1e-5), weight * 0.1, from_host<int32_t>(c, targets, {70}));
    const auto gradients = grad(loss, std::array{x, weight, scale, shift});
    EXPECT_TRUE(gradients.ok()) << gradients.status().to_string();
    std::vector<std::vector<float>> all{read(loss)};
    for (const Tensor& g : *gradients) all.push_back(read(g));
    return all;
  };
  const auto found = results(*machine->context), expected = results(testing::context());
  for (size_t i = 0; i < found.size(); ++i) expect_close(found[i], expected[i]);
}

}  // namespace
}  // namespace sporkle::tensor
