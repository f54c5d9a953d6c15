#include <gtest/gtest.h>

#include "tensor/autograd.h"
#include "tensor/passes/testing.h"

namespace sporkle::tensor {
namespace {

std::unique_ptr<Context> open(ir::Numerics numerics, DType type) {
  ContextOptions options;
  options.numerics = numerics;
  options.product_type = type;
  auto context = Context::open("cpu", {.threads = 1}, options);
  EXPECT_TRUE(context.ok()) << context.status().to_string();
  return std::move(*context);
}

// x w and x^T (x w): x is cast once for both, w once, and the product again.
Planning planned(Context& c) {
  const Tensor x = testing::random_tensor(c, {6, 8}, 1), w = testing::random_tensor(c, {8, 4}, 2);
  const Tensor y = matmul(x, w);
  Planning planning = testing::planning_of({y, matmul(x.transpose(0, 1), y)});
  EXPECT_TRUE(choose_precision(planning).ok());
  return planning;
}

TEST(MixedPrecision, CastsEveryOperandOnce) {
  const auto c = open(ir::Numerics::fast, DType::bf16);
  const Planning planning = planned(*c);
  EXPECT_EQ(testing::count(planning, Op::cast), 3);
  EXPECT_EQ(testing::count(planning, Op::matmul), 2);
  for (const NodeRef& node : planning.graph.nodes()) {
    EXPECT_TRUE(node->op != Op::matmul || (node->inputs[0]->dtype == DType::bf16 && node->dtype == DType::f32));
  }
}

TEST(MixedPrecision, WidensWhatNoInstructionMultiplies) {
  const auto c = open(ir::Numerics::fast, DType::f16);
  const Planning planning = planned(*c);
  EXPECT_EQ(testing::count(planning, Op::cast), 6);
  for (const NodeRef& node : planning.graph.nodes())
    EXPECT_TRUE(node->op != Op::matmul || node->inputs[0]->dtype == DType::f32);
}

TEST(MixedPrecision, ChangesNothingInStrict) {
  const auto strict = open(ir::Numerics::strict, DType::bf16), plain = open(ir::Numerics::fast, DType::f32);
  EXPECT_EQ(testing::count(planned(*strict), Op::cast), 0);
  EXPECT_EQ(testing::count(planned(*plain), Op::cast), 0);
}

TEST(MixedPrecision, ResultsAreThoseOfRoundedOperands) {
  for (const DType type : {DType::bf16, DType::f16}) {
    const auto c = open(ir::Numerics::fast, type), plain = open(ir::Numerics::strict, DType::f32);
    const auto result = [&](Context& context, bool rounds) {
      const auto operand = [&](const Shape& shape, uint32_t seed) {
        const Tensor t = testing::random_tensor(context, shape, seed);
        return rounds ? t.cast(type).cast(DType::f32) : t;
      };
      return testing::read(matmul(operand({20, 30}, 1), operand({30, 40}, 2)));
    };
    const std::vector<float> found = result(*c, false), expected = result(*plain, true);
    for (size_t i = 0; i < found.size(); ++i) ASSERT_NEAR(found[i], expected[i], 1e-4) << i;
  }
}

}  // namespace
}  // namespace sporkle::tensor
