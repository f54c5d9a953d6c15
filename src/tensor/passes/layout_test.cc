#include "tensor/autograd.h"
#include "tensor/convolution.h"
#include "tensor/layers.h"
#include "tensor/passes/testing.h"

namespace sporkle::tensor {
namespace {

using testing::context;
using testing::context_without;
using testing::count;
using testing::planning_of;
using testing::random_tensor;
using testing::read;
using testing::same_bits;

Planning laid_out(std::initializer_list<Tensor> roots) {
  Planning planning = planning_of(roots);
  EXPECT_TRUE(choose_layouts(planning).ok());
  EXPECT_TRUE(drop_dead_code(planning).ok());
  return planning;
}

TEST(LayoutTest, OperationsBetweenTwoPermutationsRunInTheOrderOfMemory) {
  Context& c = context("reference");
  const Tensor x = random_tensor(c, {2, 3, 4}, 1), scale = random_tensor(c, {2, 1, 1}, 2);
  const Tensor seen = x.permute({1, 2, 0});
  const Tensor y = (gelu(seen) * 2.0 + scale.expand({2, 3, 4}).permute({1, 2, 0})).permute({2, 0, 1}) * 3.0;
  const Planning planning = laid_out({y});
  EXPECT_EQ(count(planning, Op::gelu), 1);
  for (const NodeRef& node : planning.graph.nodes()) {
    if (node->op == Op::permute) {
      EXPECT_EQ(node->inputs[0]->op, Op::constant) << "views of numbers alone are left";
    } else if (node->op == Op::gelu) {
      EXPECT_EQ(node->shape, (Shape{2, 3, 4}));
    }
  }
  Context& plain = context_without("layout");
  const Tensor px = random_tensor(plain, {2, 3, 4}, 1), pscale = random_tensor(plain, {2, 1, 1}, 2);
  const Tensor expected =
      (gelu(px.permute({1, 2, 0})) * 2.0 + pscale.expand({2, 3, 4}).permute({1, 2, 0})).permute({2, 0, 1}) * 3.0;
  EXPECT_TRUE(same_bits(read(y), read(expected)));
}

TEST(LayoutTest, CopiesGoWhereValuesLieInOrderAlready) {
  Context& c = context("reference");
  const Tensor x = random_tensor(c, {2, 3, 4}, 1);
  const Tensor there_and_back = gelu(x.permute({1, 2, 0})).permute({2, 0, 1}).contiguous();
  EXPECT_EQ(count(laid_out({gelu(sum(there_and_back, {2}))}), Op::copy), 0);
  EXPECT_EQ(count(laid_out({full(c, {3}, 2.0).contiguous()}), Op::copy), 1) << "a constant has no place of its own";
}

TEST(LayoutTest, WhatIsReadAsItLiesStays) {
  Context& c = context("reference");
  const Tensor x = random_tensor(c, {2, 3, 4}, 1), w = random_tensor(c, {3, 5}, 2);
  const Tensor turned = gelu(x.permute({0, 2, 1}));
  for (const Tensor& y : {turned, matmul(turned, w), sum(turned, {2}), turned + random_tensor(c, {2, 4, 3}, 3)}) {
    const Planning planning = laid_out({y});
    for (const NodeRef& node : planning.graph.nodes()) {
      if (node->op == Op::gelu) {
        EXPECT_EQ(node->shape, (Shape{2, 4, 3}));
      }
    }
  }
}

// Two convolutions with what lies between them, forward and back.
std::vector<Tensor> network(Context& c, Layout layout) {
  const bool nhwc = layout == Layout::nhwc;
  const Tensor x = random_tensor(c, nhwc ? Shape{2, 6, 6, 4} : Shape{2, 4, 6, 6}, 1);
  const Tensor first = random_tensor(c, {8, 4, 3, 3}, 2), second = random_tensor(c, {8, 8, 3, 3}, 3);
  const Tensor bias = random_tensor(c, {8}, 4);
  ConvolutionOptions options;
  options.padding = {1, 1};
  options.layout = layout;
  const Tensor inner = gelu(conv2d(x, first, bias, options));
  const Tensor y = gelu(conv2d(inner, second, bias, options) + inner);
  const Tensor loss = sum(y * y);
  const auto gradients = grad(loss, std::array{first, second, bias});
  EXPECT_TRUE(gradients.ok());
  std::vector<Tensor> results = *gradients;
  results.push_back(loss);
  return results;
}

TEST(LayoutTest, ANetworkOfEitherLayoutHasTheSameBitsAndTakesNoMoreLaunches) {
  for (const Layout layout : {Layout::nchw, Layout::nhwc}) {
    std::vector<std::vector<float>> values[2];
    uint64_t launches[2];
    for (const int with : {0, 1}) {
      Context& c = with ? context("cpu") : context_without("layout", "cpu");
      const std::vector<Tensor> results = network(c, layout);
      const uint64_t before = c.counters().launches;
      ASSERT_TRUE(realize(results).ok());
      launches[with] = c.counters().launches - before;
      for (const Tensor& result : results) values[with].push_back(read(result));
    }
    for (size_t i = 0; i < values[0].size(); ++i) EXPECT_TRUE(same_bits(values[0][i], values[1][i])) << i;
    EXPECT_LE(launches[1], launches[0]) << (layout == Layout::nhwc ? "nhwc" : "nchw");
  }
}

}  // namespace
}  // namespace sporkle::tensor
