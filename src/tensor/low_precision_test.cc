// f16 and bf16 tensors, and products of bf16 in `fast`.
#include <gtest/gtest.h>

#include <cmath>

#include "ir/float16.h"
#include "tensor/autograd.h"
#include "tensor/random.h"
#include "tensor/testing.h"

namespace sporkle::tensor {
namespace {

Context& fast_context(const std::string& target = "") {
  static std::map<std::string, std::unique_ptr<Context>> contexts;
  std::unique_ptr<Context>& slot = contexts[target];
  if (!slot) {
    hal::DeviceOptions device;
    device.threads = 2;
    device.cpu_target = target;
    ContextOptions options;
    options.numerics = ir::Numerics::fast;
    auto opened = Context::open("cpu", device, options);
    if (!opened.ok()) {
      ADD_FAILURE() << opened.status().to_string();
      std::abort();
    }
    slot = std::move(*opened);
  }
  return *slot;
}

Context& strict_context() {
  static const auto context = Context::open("cpu", {.threads = 2});
  return **context;
}

std::vector<float> floats(const Tensor& t) {
  const auto values = t.cast(DType::f32).to_host<float>();
  EXPECT_TRUE(values.ok()) << values.status().to_string();
  return values.ok() ? *values : std::vector<float>();
}

float rounded(float x, DType type) {
  return type == DType::f16 ? ir::half_to_float(ir::float_to_half(x)) : ir::bfloat16_to_float(ir::float_to_bfloat16(x));
}

TEST(LowPrecision, EveryOperationRoundsOnce) {
  Context& c = strict_context();
  const Tensor x = normal(c, {1000}, {1, 0, 0}), y = normal(c, {1000}, {2, 0, 0});
  const std::vector<float> xs = floats(x), ys = floats(y);
  for (const DType type : {DType::f16, DType::bf16}) {
    const Tensor a = x.cast(type), b = y.cast(type);
    EXPECT_EQ((a + b).dtype(), type);
    const std::vector<float> sums = floats(a + b), products = floats(a * b * 3.0),
                             chosen = floats(where(less(a, b), a, b));
    for (size_t i = 0; i < xs.size(); ++i) {
      const float p = rounded(xs[i], type), q = rounded(ys[i], type);
      ASSERT_EQ(sums[i], rounded(p + q, type));
      ASSERT_EQ(products[i], rounded(rounded(p * q, type) * 3.0f, type));
      ASSERT_EQ(chosen[i], std::min(p, q));
    }
    // Sums are f32 inside.
    EXPECT_EQ(*sum(a).item(), rounded(static_cast<float>(*sum(a.cast(DType::f32)).item()), type));
    EXPECT_EQ(*mean(a).item(), rounded(static_cast<float>(*mean(a.cast(DType::f32)).item()), type));
  }
}

TEST(LowPrecision, StrictProductsAreThoseOfF32) {
  Context& c = strict_context();
  for (const DType type : {DType::f16, DType::bf16}) {
    const Tensor a = normal(c, {37, 51}, {1, 0, 0}).cast(type), b = normal(c, {51, 70}, {2, 0, 0}).cast(type);
    EXPECT_EQ(floats(matmul_to_f32(a, b)), floats(matmul(a.cast(DType::f32), b.cast(DType::f32))));
    EXPECT_EQ(matmul(a, b).dtype(), type);
  }
}

struct Shapes {
  Shape a, b;
  bool transpose_a = false, transpose_b = false;
};

void expect_product(Context& c, const Shapes& s) {
  SCOPED_TRACE(to_string(s.a) + " x " + to_string(s.b) + (s.transpose_a ? " a'" : "") + (s.transpose_b ? " b'" : ""));
  const auto operand = [&](Shape shape, bool transposed, uint64_t seed) {
    if (transposed) std::swap(shape[shape.rank() - 1], shape[shape.rank() - 2]);
    const Tensor t = normal(c, shape, {seed, 0, 0}).cast(DType::bf16).detach();
    EXPECT_TRUE(realize({t}).ok());
    return transposed ? t.transpose(-1, -2) : t;
  };
  const Tensor a = operand(s.a, s.transpose_a, 1), b = operand(s.b, s.transpose_b, 2);
  const Tensor exact = matmul(a.cast(DType::f64), b.cast(DType::f64));
  const Tensor scale = matmul(abs(a.cast(DType::f64)), abs(b.cast(DType::f64)));
  const auto expected = exact.to_host<double>(), scales = scale.to_host<double>();
  const auto found = matmul_to_f32(a, b).to_host<float>();
  ASSERT_TRUE(found.ok()) << found.status().to_string();
  ASSERT_EQ(found->size(), expected->size());
  const double depth = static_cast<double>(s.a[s.a.rank() - 1]);
  for (size_t i = 0; i < found->size(); ++i)
    ASSERT_NEAR((*found)[i], (*expected)[i], (depth + 2) * 0x1p-23 * (*scales)[i]) << i;
}

TEST(LowPrecision, FastProductsAreWithinTheirBound) {
  for (const std::string& level : codegen::host_cpu_levels()) {
    SCOPED_TRACE(level);
    Context& c = fast_context(level);
    for (const Shapes& s : {Shapes{{64, 64}, {64, 64}}, Shapes{{33, 51}, {51, 70}}, Shapes{{1, 100}, {100, 300}},
                            Shapes{{4, 7}, {7, 5}}, Shapes{{5, 1}, {1, 130}}, Shapes{{50, 30}, {30, 1}},
                            Shapes{{3, 20, 34}, {3, 34, 18}}, Shapes{{2, 3, 9, 11}, {2, 3, 11, 65}}})
      for (const bool ta : {false, true})
        for (const bool tb : {false, true})
          if (!(ta || tb) || s.a[s.a.rank() - 2] > 8) expect_product(c, {s.a, s.b, ta, tb});
    expect_product(c, {{6, 4500}, {4500, 40}});  // several passes over k
  }
}

TEST(LowPrecision, FastProductsTakeEpilogues) {
  Context& c = fast_context();
  const Tensor a = normal(c, {40, 64}, {1, 0, 0}).cast(DType::bf16),
               b = normal(c, {64, 96}, {2, 0, 0}).cast(DType::bf16);
  const Tensor bias = normal(c, {96}, {3, 0, 0});
  ASSERT_TRUE(realize({a, b, bias}).ok());
  const std::vector<float> product = floats(matmul_to_f32(a, b)), plus = floats(bias);
  const uint64_t before = c.counters().launches;
  const std::vector<float> fused = floats(relu(matmul_to_f32(a, b) + bias).cast(DType::bf16));
  EXPECT_LE(c.counters().launches - before, 2u);  // the product with all that follows, and the cast of reading it
  for (size_t i = 0; i < fused.size(); ++i)
    ASSERT_EQ(fused[i], rounded(std::max(product[i] + plus[i % 96], 0.0f), DType::bf16));
}

TEST(LowPrecision, GradientsFlowThroughProducts) {
  Context& c = fast_context();
  const Tensor x = normal(c, {16, 24}, {1, 0, 0}), w = normal(c, {24, 32}, {2, 0, 0});
  const Tensor low = sum(matmul_to_f32(x.cast(DType::bf16), w.cast(DType::bf16)) * 0.1), full = sum(matmul(x, w) * 0.1);
  const auto a = grad(low, std::array{x, w}), b = grad(full, std::array{x, w});
  ASSERT_TRUE(a.ok()) << a.status().to_string();
  for (size_t p = 0; p < 2; ++p) {
    EXPECT_EQ((*a)[p].dtype(), DType::f32);
    const std::vector<float> found = floats((*a)[p]), expected = floats((*b)[p]);
    for (size_t i = 0; i < found.size(); ++i) ASSERT_NEAR(found[i], expected[i], 0.02 * std::abs(expected[i]) + 0.02);
  }
}

TEST(LowPrecision, WhatHasNo16BitFormSaysSo) {
  Context& c = strict_context();
  const Tensor x = full(c, {4, 4}, 1, DType::bf16);
  const Tensor mixed = matmul(x, full(c, {4, 4}, 1));
  EXPECT_NE(mixed.status().message().find("16-bit floats of one type"), std::string::npos) << mixed.status().message();
  EXPECT_FALSE(x.to_host<float>().ok());
}

}  // namespace
}  // namespace sporkle::tensor
