#include "tensor/autograd.h"
#include "tensor/kernel_call.h"
#include "tensor/testing.h"

namespace sporkle::tensor {
namespace {

using testing::context;
using testing::random_tensor;
using testing::read;

std::vector<float> packed_by_hand(std::span<const std::vector<float>> parts) {
  std::vector<float> result;
  for (const std::vector<float>& part : parts) {
    result.insert(result.end(), part.begin(), part.end());
    result.resize((result.size() + kPackAlignment - 1) / kPackAlignment * kPackAlignment);
  }
  return result;
}

TEST(PackTest, PutsTensorsOneAfterTheOther) {
  for (const bool fuse : {true, false}) {
    Context& c = context("cpu", 2, fuse);
    const Tensor x = random_tensor(c, {3, 5}, 1), w = random_tensor(c, {5, 7}, 2);
    const Tensor product = matmul(x, w), column = sum(x, {0}), kept = exp(x);
    // A leaf, a view, a product, one that is wanted for itself, and one that comes twice.
    const Tensor parts[] = {x, w.transpose(0, 1), product * 2.0, kept, column, column};
    const Tensor all = pack(parts);
    ASSERT_TRUE(realize({all, kept}).ok());
    std::vector<std::vector<float>> values;
    for (const Tensor& part : parts) values.push_back(read(part));
    EXPECT_EQ(read(all), packed_by_hand(values));
  }
}

TEST(PackTest, PartsAreComputedInTheirPlace) {
  Context& c = context();
  const Tensor x = random_tensor(c, {64, 64}, 1), w = random_tensor(c, {64, 64}, 2);
  const uint64_t before = c.counters().launches;
  const Tensor parts[] = {matmul(x, w), matmul(w, x)};
  const Tensor norm = sum(pack(parts) * pack(parts));
  ASSERT_TRUE(realize({norm}).ok());
  EXPECT_EQ(c.counters().launches, before + 3) << "two products and a sum";
}

TEST(PackTest, GradientsAreParts) {
  Context& c = context();
  const Tensor x = random_tensor(c, {3}, 1), y = random_tensor(c, {2, 2}, 2);
  const Tensor parts[] = {x * 2.0, y}, parameters[] = {x, y};
  const auto gradients = grad(sum(pack(parts) * pack(parts)), parameters);
  ASSERT_TRUE(gradients.ok()) << gradients.status().to_string();
  EXPECT_EQ(read((*gradients)[0]), read(x * 8.0));
  EXPECT_EQ(read((*gradients)[1]), read(y * 2.0));
}

TEST(PackTest, Errors) {
  Context& c = context();
  const Tensor x = random_tensor(c, {3}, 1);
  const Tensor parts[] = {x, x.cast(DType::f64)};
  EXPECT_NE(pack(parts).status().message().find("one type"), std::string::npos);
  EXPECT_EQ(pack({}).status().code(), Code::invalid_argument);
}

KernelCall add_one(const Shape& shape) {
  KernelCall call;
  call.key = "add_one_in_place";
  call.define = [](dsl::KernelBuilder& k) {
    const dsl::Buffer x = k.in_out(DType::f32, "x");
    k.range("i", k.size("n"), [&](dsl::Expr i) { x.store(i, x[i] + dsl::constant(DType::f32, 1)); });
  };
  call.schedule = "i:vec";
  call.results = {{DType::f32, shape}};
  call.takes = {0};
  call.scalars = {scalar_bits(element_count(shape))};
  return call;
}

Tensor plus_one(const Tensor& x) { return call_kernel(add_one(x.shape()), {&x, 1})[0]; }

TEST(TakenMemoryTest, AnUpdateRunsInPlaceAndTheOldValueIsAnError) {
  Context& c = context();
  Tensor x = random_tensor(c, {100}, 1);
  std::vector<float> expected = read(x);
  const hal::Buffer* memory = x.node()->storage->buffer().get();
  const Tensor old = x, view = x.slice(0, 10, 5), later = exp(x) * 2.0;
  for (int i = 0; i < 3; ++i) {
    const Tensor before = sum(x), next = plus_one(x).detach();
    ASSERT_TRUE(realize({next, before}).ok());
    x = next;
    double total = 0;
    for (float& value : expected) total += value, value += 1;
    EXPECT_NEAR(*before.item(), total, 1e-3) << "readers of the old value come first";
    EXPECT_EQ(read(x), expected);
    EXPECT_EQ(x.node()->storage->buffer().get(), memory);
  }
  // The old value, a view of it, and what was made from it and had not run.
  for (const Tensor& stale : {old, view, later})
    EXPECT_NE(stale.to_host<float>().status().message().find("in place"), std::string::npos);
}

TEST(TakenMemoryTest, WhatIsSharedIsCopied) {
  Context& c = context();
  const Tensor x = random_tensor(c, {100}, 1), shared = x * 1.0;
  const std::vector<float> values = read(x);
  ASSERT_TRUE(realize({shared}).ok());  // algebra gives it x's memory
  const Tensor next = plus_one(x), view = plus_one(random_tensor(c, {200}, 2).slice(0, 50, 100));
  ASSERT_TRUE(realize({next, view}).ok());
  EXPECT_EQ(read(x), values);
  EXPECT_EQ(read(shared), values);
  EXPECT_NE(read(next), values);
  // A value that is only computed in the same graph, and one that the new value's readers need.
  const Tensor y = exp(x), both = plus_one(y) + y;
  const std::vector<float> exps = read(exp(x)), sums = read(both);
  for (size_t i = 0; i < exps.size(); ++i) EXPECT_EQ(sums[i], exps[i] + 1 + exps[i]);
  const Tensor z = random_tensor(c, {100}, 3);
  const std::vector<float> zs = read(z), twice = read(plus_one(z) * z);
  for (size_t i = 0; i < zs.size(); ++i) EXPECT_EQ(twice[i], (zs[i] + 1) * zs[i]);
}

TEST(TakenMemoryTest, WrongDescriptionsAreErrors) {
  Context& c = context();
  const Tensor x = random_tensor(c, {100}, 1);
  KernelCall call = add_one({50});
  EXPECT_FALSE(call_kernel(call, {&x, 1})[0].ok());
  call = add_one({100});
  call.takes = {1};
  EXPECT_FALSE(call_kernel(call, {&x, 1})[0].ok());
}

}  // namespace
}  // namespace sporkle::tensor
