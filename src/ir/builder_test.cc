#include "ir/builder.h"

#include <gtest/gtest.h>

#include <cmath>

#include "ir/random_kernel.h"
#include "ir/text.h"
#include "ir/verifier.h"

namespace sporkle::ir {
namespace {

// Every node made again through the Builder, with all its folding.
Kernel rebuilt(const Kernel& kernel) {
  Kernel result = kernel;
  Builder builder(*kernel.context);
  NodeMap made;
  visit_post_order(kernel.body, [&](const Node* node) {
    std::vector<const Node*> sources;
    for (const Node* source : node->src()) sources.push_back(made.at(source));
    made.emplace(node, builder.rebuild(node, sources));
  });
  result.body = made.at(kernel.body);
  return result;
}

TEST(Builder, FoldingKeepsEveryBit) {
  int shorter = 0;
  for (uint64_t seed = 0; seed < 3000; ++seed) {
    RandomKernel random(seed);
    const DType type = RandomKernel::kTypes[seed % RandomKernel::kTypes.size()];
    const Kernel kernel = random.store_of_expression(type, 6);
    const Kernel folded = rebuilt(kernel);
    ASSERT_TRUE(verify(folded).ok()) << verify(folded).to_string() << "\n" << print(folded);
    shorter += print(folded).size() < print(kernel).size();
    const std::vector<uint64_t> scalars = random.scalars();
    Status first, second;
    const auto expected = RandomKernel::run(kernel, scalars, &first);
    const auto found = RandomKernel::run(folded, scalars, &second);
    ASSERT_TRUE(first.ok() && second.ok()) << first.to_string() << second.to_string();
    ASSERT_TRUE(RandomKernel::equal(expected, found)) << "seed " << seed << "\n" << print(kernel) << print(folded);
  }
  EXPECT_GT(shorter, 300);  // or nothing was folded and the test shows nothing
}

TEST(Builder, FoldsIndexArithmetic) {
  Context context;
  Builder b(context);
  const Node* n = b.scalar(DType::i64, 0, "n");
  EXPECT_EQ(b.add(n, b.integer(0)), n);
  EXPECT_EQ(b.mul(n, b.integer(1)), n);
  EXPECT_EQ(b.div(n, b.integer(1)), n);
  EXPECT_EQ(b.sub(n, n), b.integer(0));
  EXPECT_EQ(b.mul(b.integer(0), n), b.integer(0));
  EXPECT_EQ(b.mod(n, b.integer(1)), b.integer(0));
  EXPECT_EQ(b.add(b.add(n, b.integer(3)), b.integer(4)), b.add(b.integer(7), n));
  EXPECT_EQ(b.div(b.integer(-7), b.integer(2)), b.integer(-3));
  EXPECT_EQ(b.mod(b.integer(-7), b.integer(2)), b.integer(-1));
  EXPECT_EQ(b.div(b.integer(5), b.integer(0)), b.integer(0));
  EXPECT_EQ(b.binary(Op::less, b.bits(DType::u64, 1), b.bits(DType::u64, -1)), b.boolean(true));
  EXPECT_EQ(b.load(b.buffer(DType::f32, 0, "x"), n, b.boolean(false), b.constant(DType::f32, 2)),
            b.constant(DType::f32, 2));
}

// x + 0 is not x for x = -0, so floats are left alone.
TEST(Builder, LeavesFloatsAlone) {
  Context context;
  Builder b(context);
  const Node* x = b.scalar(DType::f32, 0, "x");
  EXPECT_NE(b.add(x, b.constant(DType::f32, 0)), x);
  EXPECT_NE(b.sub(x, x)->op, Op::constant);
  EXPECT_NE(b.mul(x, b.constant(DType::f32, 0))->op, Op::constant);
}

TEST(Builder, DropsEmptyLoops) {
  Context context;
  Builder b(context);
  const Node* store = b.store(b.buffer(DType::f32, 0, "x"), b.integer(0), b.constant(DType::f32, 1));
  EXPECT_EQ(b.loop(Op::loop, b.range(b.integer(0), "i"), {{store}}), b.block({}));
  EXPECT_EQ(b.loop(Op::loop, b.range(b.integer(4), "i"), {}), b.block({}));
}

TEST(Context, InternsEqualNodes) {
  Context context;
  Builder b(context);
  const Node *x = b.scalar(DType::f32, 0, "x"), *y = b.scalar(DType::f32, 1, "y");
  EXPECT_EQ(b.add(x, y), b.add(x, y));
  EXPECT_NE(b.add(x, y), b.add(y, x));
  EXPECT_NE(b.scalar(DType::f32, 0, "z"), x);
  EXPECT_NE(b.range(b.integer(3), "i"), b.range(b.integer(3), "i"));
}

TEST(Constants, RoundAndSaturate) {
  const double infinity = std::numeric_limits<double>::infinity();
  EXPECT_EQ(constant_bits(DType::i32, -infinity), std::numeric_limits<int32_t>::min());
  EXPECT_EQ(constant_bits(DType::i64, 1e30), std::numeric_limits<int64_t>::max());
  EXPECT_EQ(constant_bits(DType::u8, 300), 255);
  EXPECT_EQ(constant_bits(DType::u8, std::nan("")), 0);
  EXPECT_EQ(constant_bits(DType::boolean, 0.5), 1);
  EXPECT_EQ(constant_bits(DType::f16, 1.5), 0x3e00);
  EXPECT_EQ(constant_bits(DType::bf16, -2.0), 0xc000);
  EXPECT_EQ(constant_bits_integer(DType::i8, 200), -56);
  EXPECT_EQ(constant_bits_integer(DType::u32, -1), 0xffffffff);
  EXPECT_EQ(constant_bits_integer(DType::f32, 3), constant_bits(DType::f32, 3));
  // Once from 2^60 + 2^36 + 1 to f32, not first to f64, which would make it a tie.
  EXPECT_EQ(constant_bits_integer(DType::f32, (int64_t{1} << 60) + (int64_t{1} << 36) + 1),
            constant_bits(DType::f32, 0x1p60 + 0x1p37));
}

TEST(Rewrite, ReplacesAndFoldsUpwards) {
  Context context;
  Builder b(context);
  const Node* i = b.range(b.integer(8), "i");
  const Node* sum = b.add(b.mul(i, b.integer(4)), b.integer(2));
  NodeMap memo{{i, b.integer(3)}};
  EXPECT_EQ(rewrite(b, sum, memo), b.integer(14));
  EXPECT_TRUE(depends_on(sum, i));
  EXPECT_FALSE(depends_on(b.integer(14), i));
}

}  // namespace
}  // namespace sporkle::ir
