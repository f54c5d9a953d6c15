#include <gtest/gtest.h>

#include "tensor/passes/testing.h"
#include "tensor/testing_units.h"

namespace sporkle::tensor {
namespace {

using testing::random_tensor;

std::unique_ptr<testing::MachineWithUnits> machine(ir::Numerics numerics = ir::Numerics::fast) {
  auto device = hal::open_device("cpu");
  EXPECT_TRUE(device.ok()) << device.status().to_string();
  return std::make_unique<testing::MachineWithUnits>(*device, std::string(testing::kTargetWithUnits), numerics);
}

// The extent of the axis in front of the graph's product; 1 where there is none.
int64_t segments(Context& c, int64_t rows, int64_t columns, int64_t depth, DType type = DType::bf16) {
  const Tensor a = random_tensor(c, {rows, depth}, 1).cast(type), b = random_tensor(c, {depth, columns}, 2).cast(type);
  Planning planning = testing::planning_of({matmul_to_f32(a, b)});
  EXPECT_TRUE(split_products(planning).ok());
  for (const NodeRef& node : planning.graph.nodes())
    if (node->op == Op::matmul) return node->shape.rank() == 3 ? node->shape[0] : 1;
  return 0;
}

TEST(SplitProducts, LongOnesOfFewTiles) {
  const auto fast = machine();
  EXPECT_EQ(segments(*fast->context, 64, 64, 8192), 8);       // segments no shorter than 1024
  EXPECT_EQ(segments(*fast->context, 64, 64, 8192 + 64), 1);  // nor of unequal length
  EXPECT_EQ(segments(*fast->context, 64, 64, 1024), 1);
  EXPECT_EQ(segments(*fast->context, 768, 768, 8192), 4);    // 36 tiles each
  EXPECT_EQ(segments(*fast->context, 1280, 1280, 4096), 1);  // enough tiles
  EXPECT_EQ(segments(*fast->context, 64, 64, 8192, DType::f32), 1);
  const auto strict = machine(ir::Numerics::strict);
  EXPECT_EQ(segments(*strict->context, 64, 64, 8192), 1);
}

TEST(SplitProducts, AddUpToTheProduct) {
  const auto fast = machine();
  const auto product = [](Context& c, bool transposed) {
    const Tensor a = random_tensor(c, transposed ? Shape{4096, 32} : Shape{32, 4096}, 1).cast(DType::bf16);
    const Tensor b = random_tensor(c, {4096, 48}, 2).cast(DType::bf16);
    return testing::read(matmul_to_f32(transposed ? a.transpose(0, 1) : a, b) * 0.5 + 1.0);
  };
  for (const bool transposed : {false, true}) {
    const std::vector<float> found = product(*fast->context, transposed),
                             expected = product(testing::context(), transposed);
    ASSERT_EQ(found.size(), expected.size());
    for (size_t i = 0; i < found.size(); ++i) ASSERT_NEAR(found[i], expected[i], 0.01) << i;
  }
  EXPECT_EQ(fast->count("matmul units"), 2);
  EXPECT_EQ(fast->count("pointwise"), 2);  // operands are rounded, and segments added, with what follows
}

}  // namespace
}  // namespace sporkle::tensor
