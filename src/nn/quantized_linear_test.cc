#include "nn/quantized_linear.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "nn/gpt.h"
#include "tensor/autograd.h"
#include "tensor/random.h"
#include "tensor/testing.h"

namespace sporkle::nn {
namespace {

using tensor::Tensor;

Tensor drawn(tensor::Context& c, const tensor::Shape& shape, uint64_t seed) {
  const Tensor t = tensor::normal(c, shape, {seed, 0, 0}).detach();
  EXPECT_TRUE(tensor::realize({t}).ok());
  return t;
}

// The bound of the method: half a step of either operand, for each of the products.
TEST(QuantizedLinear, IsWithinHalfAStepOfEitherOperand) {
  for (const char* device : {"cpu", "reference"}) {
    tensor::Context& c = tensor::testing::context(device);
    for (const auto& [rows, inputs, outputs] :
         {std::array<int64_t, 3>{1, 64, 300}, {5, 33, 17}, {3, 1, 1}, {2, 130, 70}}) {
      const Tensor x = drawn(c, {rows, inputs}, 1), w = drawn(c, {inputs, outputs}, 2);
      const auto q = quantize_weight(w);
      ASSERT_TRUE(q.ok()) << q.status().to_string();
      const std::vector<float> found = tensor::testing::read(quantized_linear(x, *q));
      const std::vector<float> xs = tensor::testing::read(x), ws = tensor::testing::read(w);
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t o = 0; o < outputs; ++o) {
          double exact = 0, x_top = 0, w_top = 0, x_sum = 0, w_sum = 0;
          for (int64_t i = 0; i < inputs; ++i) {
            const double a = xs[static_cast<size_t>(r * inputs + i)], b = ws[static_cast<size_t>(i * outputs + o)];
            exact += a * b;
            x_top = std::max(x_top, std::abs(a)), w_top = std::max(w_top, std::abs(b));
            x_sum += std::abs(a), w_sum += std::abs(b);
          }
          const double x_step = x_top / 127, w_step = w_top / 127;
          const double limit = 0.5001 * (x_step * w_sum + w_step * x_sum) + 0.26 * x_step * w_step * double(inputs);
          ASSERT_NEAR(found[static_cast<size_t>(r * outputs + o)], exact, limit) << device << " " << r << " " << o;
        }
    }
  }
}

TEST(QuantizedLinear, HasTheSameBitsOnEveryDeviceAndEitherWayOfStoringTheWeight) {
  tensor::Context &cpu = tensor::testing::context("cpu"), &reference = tensor::testing::context("reference");
  const auto result = [](tensor::Context& c, bool transposed) {
    const Tensor w = drawn(c, {50, 90}, 2);
    const auto q = quantize_weight(transposed ? w.transpose(0, 1).contiguous() : w, transposed);
    EXPECT_TRUE(q.ok());
    return tensor::testing::read(quantized_linear(drawn(c, {2, 3, 50}, 1), *q));
  };
  const std::vector<float> expected = result(reference, false);
  EXPECT_TRUE(tensor::testing::same_bits(result(cpu, false), expected));
  EXPECT_TRUE(tensor::testing::same_bits(result(cpu, true), expected));
}

TEST(QuantizedLinear, ZerosAreZeros) {
  tensor::Context& c = tensor::testing::context();
  const Tensor zero = tensor::full(c, {2, 8}, 0).contiguous(), w = drawn(c, {8, 4}, 2);
  for (const float y : tensor::testing::read(quantized_linear(zero, *quantize_weight(w)))) EXPECT_EQ(y, 0);
  const auto nothing = quantize_weight(tensor::full(c, {8, 4}, 0).contiguous());
  for (const float y : tensor::testing::read(quantized_linear(drawn(c, {2, 8}, 1), *nothing))) EXPECT_EQ(y, 0);
}

TEST(QuantizedLinear, WhatCannotBeQuantisedIsAnError) {
  tensor::Context& c = tensor::testing::context();
  EXPECT_NE(quantize_weight(drawn(c, {8}, 1)).status().message().find("an f32 matrix"), std::string::npos);
  const std::vector<float> bad{1, 2, std::numeric_limits<float>::infinity(), 4};
  EXPECT_NE(quantize_weight(tensor::from_host<float>(c, bad, {2, 2})).status().message().find("[1, 0] is not finite"),
            std::string::npos);
  EXPECT_NE(quantize_weight(tensor::zeros(c, {70000, 1}).contiguous()).status().message().find("at most 65536"),
            std::string::npos);
  const auto q = quantize_weight(drawn(c, {8, 4}, 1));
  EXPECT_NE(quantized_linear(drawn(c, {2, 7}, 1), *q).status().message().find("8 along the last axis"),
            std::string::npos);
}

TEST(QuantizedGpt, PredictsNearlyTheSame) {
  tensor::Context& c = tensor::testing::context();
  auto gpt = Gpt::create(c, {.layers = 2, .heads = 2, .width = 64, .context = 32, .vocab_size = 100}, 3);
  ASSERT_TRUE(gpt.ok());
  std::vector<int32_t> ids;
  for (int i = 0; i < 32; ++i) ids.push_back((7 * i + 3) % 100);
  const Tensor tokens = tensor::from_host<int32_t>(c, ids, {1, 32});
  const std::vector<float> before = tensor::testing::read(gpt->logits(tokens));
  ASSERT_TRUE(gpt->quantize_int8().ok());
  const std::vector<float> after = tensor::testing::read(gpt->logits(tokens));
  double error = 0, size = 0;
  for (size_t i = 0; i < before.size(); ++i) {
    error += std::pow(after[i] - before[i], 2);
    size += std::pow(before[i], 2);
  }
  EXPECT_GT(error, 0);  // it is another computation
  EXPECT_LT(std::sqrt(error / size), 0.03);
  // Nothing learns from it.
  const auto parameters = values(gpt->parameters());
  EXPECT_EQ(tensor::grad(gpt->loss(tokens, tokens), parameters).status().code(), Code::unsupported);
}

}  // namespace
}  // namespace sporkle::nn
