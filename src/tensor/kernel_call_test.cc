#include "tensor/kernel_call.h"

#include "tensor/autograd.h"
#include "tensor/testing.h"

namespace sporkle::tensor {
namespace {

using testing::context;
using testing::read;

// x -> x^2 and x^3.
KernelCall powers(const Shape& shape) {
  KernelCall call;
  call.key = "powers test";
  call.define = [](dsl::KernelBuilder& k) {
    const dsl::Buffer x = k.input(DType::f32, "x");
    const dsl::Buffer square = k.output(DType::f32, "square"), cube = k.output(DType::f32, "cube");
    const dsl::Expr n = k.size("n");
    k.range("i", n, [&](dsl::Expr i) {
      square.store(i, x[i] * x[i]);
      cube.store(i, x[i] * x[i] * x[i]);
    });
  };
  call.schedule = "i:thread64 i:vec";
  call.results = {{DType::f32, shape}, {DType::f32, shape}};
  call.scalars = {scalar_bits(element_count(shape))};
  call.gradient = [](std::span<const Tensor> x, std::span<const Tensor> y, std::span<const Tensor> dy) {
    return std::vector<Tensor>{dy[0] * x[0] * 2.0 + dy[1] * y[0] * 3.0};
  };
  return call;
}

TEST(KernelCallTest, GivesAllResultsAndTheirGradients) {
  Context& c = context();
  const Tensor x = from_host<float>(c, std::vector<float>{1, 2, 3, 4}, {2, 2});
  const std::vector<Tensor> y = call_kernel(powers({2, 2}), {&x, 1});
  EXPECT_EQ(read(y[0]), (std::vector<float>{1, 4, 9, 16}));
  EXPECT_EQ(read(y[1]), (std::vector<float>{1, 8, 27, 64}));
  const auto both = grad(sum(y[0] + y[1]), std::array{x});
  ASSERT_TRUE(both.ok());
  EXPECT_EQ(read((*both)[0]), (std::vector<float>{5, 16, 33, 56}));
  const Tensor cube = call_kernel(powers({2, 2}), {&x, 1})[1];  // nobody holds on to the other result
  const auto one = grad(sum(cube), std::array{x});
  ASSERT_TRUE(one.ok());
  EXPECT_EQ(read((*one)[0]), (std::vector<float>{3, 12, 27, 48}));
}

TEST(KernelCallTest, CopiesOperandsThatAreNotRowMajor) {
  Context& c = context();
  const Tensor x = from_host<float>(c, std::vector<float>{1, 2, 3, 4, 5, 6}, {2, 3});
  const Tensor transposed = x.transpose(0, 1), rows = x.slice(0, 1, 1), stretched = full(c, {}, 3.0).expand({2});
  EXPECT_EQ(read(call_kernel(powers({3, 2}), {&transposed, 1})[0]), (std::vector<float>{1, 16, 4, 25, 9, 36}));
  EXPECT_EQ(read(call_kernel(powers({1, 3}), {&rows, 1})[0]), (std::vector<float>{16, 25, 36}));
  EXPECT_EQ(read(call_kernel(powers({2}), {&stretched, 1})[0]), (std::vector<float>{9, 9}));
}

// Two launches, so that what the first stores past the caches is read by other threads; with a rest below a vector.
TEST(KernelCallTest, WhatIsStreamedIsThereForTheNextKernel) {
  Context& c = context("cpu", 2);
  KernelCall plain = powers({10'007}), streamed = plain;
  streamed.key = "powers streamed test";
  streamed.schedule = "i:thread64 i:vec i:stream";
  const Tensor x = testing::random_tensor(c, {10'007}, 1);
  const auto chain = [&](const KernelCall& call) {
    const Tensor inner[] = {call_kernel(call, {&x, 1})[1]};
    return call_kernel(call, inner);
  };
  const std::vector<Tensor> expected = chain(plain), found = chain(streamed);
  for (size_t i = 0; i < 2; ++i) EXPECT_TRUE(testing::same_bits(read(found[i]), read(expected[i])));
}

TEST(KernelCallTest, ReportsMistakes) {
  Context& c = context();
  const Tensor x = full(c, {2}, 1.0), wrong = x + full(c, {3}, 1.0);
  KernelCall call = powers({2});
  call.schedule = "i:sideways";
  EXPECT_EQ(call_kernel(call, {&x, 1})[1].status().code(), Code::invalid_argument);
  call = powers({2});
  call.schedule = "j:vec";
  EXPECT_FALSE(realize(call_kernel(call, {&x, 1})).ok()) << "the kernel has no loop j";
  EXPECT_EQ(call_kernel(powers({2}), {&wrong, 1})[0].status().message(), wrong.status().message());
  EXPECT_EQ(call_kernel(powers({-2}), {&x, 1})[0].status().code(), Code::invalid_argument);
  EXPECT_EQ(call_kernel(powers({2}), {})[0].status().code(), Code::invalid_argument);
  call = powers({2});
  call.gradient = {};
  EXPECT_EQ(grad(sum(call_kernel(call, {&x, 1})[0]), std::array{x}).status().code(), Code::unsupported);
  EXPECT_EQ(read(x * 2.0), (std::vector<float>{2, 2})) << "the context is as good as before";
}

TEST(KernelCallTest, AFailureOnTheDeviceStays) {
  auto c = Context::open("reference");
  ASSERT_TRUE(c.ok());
  const Tensor x = full(**c, {2}, 1.0);
  KernelCall call = powers({2});
  call.scalars = {scalar_bits(1 << 20)};  // far beyond the buffers
  EXPECT_FALSE(call_kernel(call, {&x, 1})[0].to_host<float>().ok());
  EXPECT_FALSE((x * 2.0).to_host<float>().ok());
}

}  // namespace
}  // namespace sporkle::tensor
