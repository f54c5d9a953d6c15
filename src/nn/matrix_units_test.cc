// A transformer's training step in bf16 on a device with matrix units.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "codegen/vulkan_target.h"
#include "hal/registry.h"
#include "nn/gpt.h"
#include "tensor/autograd.h"
#include "tensor/testing_units.h"

namespace sporkle::nn {
namespace {

using tensor::Tensor;

// Its vocabulary is no multiple of anything, as GPT-2's.
constexpr GptConfig kConfig{.layers = 2, .heads = 2, .width = 64, .context = 32, .vocab_size = 517};

std::vector<std::vector<float>> gradients_of(tensor::Context& c) {
  auto gpt = Gpt::create(c, kConfig, 5);
  EXPECT_TRUE(gpt.ok()) << gpt.status().to_string();
  std::mt19937 generator(3);
  std::vector<int32_t> tokens(2 * 4 * 32);
  for (int32_t& token : tokens) token = static_cast<int32_t>(generator() % 517);
  const auto half = [&](size_t which) {
    return tensor::from_host<int32_t>(c,
                                      std::vector<int32_t>(tokens.begin() + static_cast<ptrdiff_t>(which * 128),
                                                           tokens.begin() + static_cast<ptrdiff_t>(which * 128 + 128)),
                                      {4, 32});
  };
  const Tensor loss = gpt->loss(half(0), half(1), nullptr);
  std::vector<Tensor> parameters;
  for (const Parameter& p : gpt->parameters()) parameters.push_back(p.value);
  const auto gradients = tensor::grad(loss, parameters);
  EXPECT_TRUE(gradients.ok()) << gradients.status().to_string();
  EXPECT_TRUE(tensor::realize(*gradients).ok());
  std::vector<std::vector<float>> result;
  for (const Tensor& g : *gradients) result.push_back(tensor::testing::read(g));
  return result;
}

// Every product of the step is among those of the units, and the gradients are f32's but for the roundings to bf16.
TEST(MatrixUnits, MultiplyInAllOfATrainingStep) {
  auto opened = hal::open_device("vulkan:0");
  if (!opened.ok()) GTEST_SKIP() << opened.status().message();
  auto target = *codegen::VulkanTarget::parse((*opened)->info().target);
  if (!target.storage16) GTEST_SKIP() << "the device has no buffers of 16-bit numbers";
  target.matrix_bf16 = true;
  if (target.subgroup == 0) target.subgroup = 32;
  tensor::testing::MachineWithUnits machine(*opened, target.text());
  const auto found = gradients_of(*machine.context), expected = gradients_of(tensor::testing::context());
  EXPECT_GE(machine.count("matmul units"), 6);
  EXPECT_EQ(machine.count("workgroup matmul"), 0);
  ASSERT_EQ(found.size(), expected.size());
  for (size_t p = 0; p < found.size(); ++p) {
    double difference = 0, magnitude = 0;
    for (size_t i = 0; i < found[p].size(); ++i) {
      difference += std::pow(found[p][i] - expected[p][i], 2);
      magnitude += std::pow(expected[p][i], 2);
    }
    // A rounding is 2^-9; about ten lie on the way to a gradient.
    EXPECT_LT(std::sqrt(difference), 0.03 * std::sqrt(magnitude) + 1e-6) << p;
  }
}

}  // namespace
}  // namespace sporkle::nn
