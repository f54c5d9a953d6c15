#include <gtest/gtest.h>

#include "dsl/kernel.h"
#include "ir/interpreter.h"
#include "ir/random_kernel.h"
#include "ir/text.h"
#include "ir/verifier.h"
#include "lower/lower.h"

namespace sporkle::lower {
namespace {

using ir::Node;
using ir::Op;

TEST(MapToInvocations, KeepsTheMeaningOfRandomKernels) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    ir::RandomKernel random(seed);
    const ir::Kernel kernel = random.kernel();
    const auto lowered = lower_for_gpu(kernel, {});
    ASSERT_TRUE(lowered.ok()) << "seed " << seed << ": " << lowered.status().to_string();
    ir::visit_post_order(lowered->body, [&](const Node* node) {
      EXPECT_NE(node->op, Op::lane_reduce);
      EXPECT_FALSE(node->op == Op::range && node->range_kind() == ir::RangeKind::vector);
    });
    const std::vector<uint64_t> scalars = random.scalars();
    Status first, second;
    const auto expected = ir::RandomKernel::run(kernel, scalars, &first);
    const auto found = ir::RandomKernel::run(*lowered, scalars, &second);
    ASSERT_TRUE(first.ok()) << first.to_string();
    ASSERT_TRUE(second.ok()) << second.to_string();
    ASSERT_TRUE(ir::RandomKernel::equal(expected, found)) << "seed " << seed << "\n"
                                                          << ir::print(kernel) << ir::print(*lowered);
  }
}

// Three nested loops over an array, numbered in order.
ir::Kernel nested(bool with_scratch) {
  return dsl::trace("nested", [&](dsl::KernelBuilder& k) {
    const dsl::Expr a = k.size("a"), b = k.size("b"), c = k.size("c");
    const dsl::Buffer y = k.output(ir::DType::i64, "y");
    k.range("i", a, [&](dsl::Expr i) {
      k.range("j", b, [&](dsl::Expr j) {
        k.range("l", c, [&](dsl::Expr l) {
          const dsl::Expr at = (i * b + j) * c + l;
          if (with_scratch) {
            const dsl::Buffer one = k.scratch(ir::DType::i64, "one", 1);
            one.store(0, at);
            y.store(at, one[0]);
          } else {
            y.store(at, at);
          }
        });
      });
    });
  });
}

const Node* thread_range(const ir::Kernel& kernel) {
  const Node* found = nullptr;
  ir::visit_post_order(kernel.body, [&](const Node* node) {
    if (node->op == Op::range && node->range_kind() == ir::RangeKind::thread) found = node;
  });
  return found;
}

TEST(MapToInvocations, JoinsLoops) {
  const auto lowered = lower_for_gpu(nested(false), {});
  ASSERT_TRUE(lowered.ok());
  const Node* range = thread_range(*lowered);
  ASSERT_NE(range, nullptr);
  const uint64_t scalars[] = {2, 3, 5};
  EXPECT_EQ(*ir::evaluate_integer(range->src(0), scalars), 30);
  std::vector<int64_t> y(30, -1);
  const ir::InterpreterBuffer buffer{reinterpret_cast<std::byte*>(y.data()), y.size() * sizeof(int64_t)};
  ASSERT_TRUE(ir::interpret(*lowered, {&buffer, 1}, scalars).ok());
  for (int64_t i = 0; i < 30; ++i) EXPECT_EQ(y[static_cast<size_t>(i)], i);
  // No loop runs for a negative count, and two of them must not make a positive one.
  const uint64_t negative[] = {uint64_t(-2), uint64_t(-3), 5};
  EXPECT_EQ(*ir::evaluate_integer(range->src(0), negative), 0);
}

TEST(MapToInvocations, ScratchStaysWithItsIteration) {
  const auto lowered = lower_for_gpu(nested(true), {});
  ASSERT_TRUE(lowered.ok());
  const Node* range = thread_range(*lowered);
  ASSERT_NE(range, nullptr);
  const uint64_t scalars[] = {2, 3, 5};
  EXPECT_EQ(*ir::evaluate_integer(range->src(0), scalars), 2);
}

// Four neighbours in an invocation, by one statement, where the schedule says so and there are four.
TEST(MapToInvocations, PacksStores) {
  const auto quads = [](int64_t count) {
    return dsl::trace("quads", [&](dsl::KernelBuilder& k) {
      const dsl::Buffer y = k.output(ir::DType::i64, "y");
      k.range("i", k.size("n"), [&](dsl::Expr i) {
        k.range("lane", dsl::Expr(count), [&](dsl::Expr lane) { y.store(i * count + lane, i * count + lane); });
      });
    });
  };
  for (const int64_t count : {4, 3}) {
    const auto lowered = lower_for_gpu(quads(count), *Schedule::parse("i:thread lane:pack4"));
    ASSERT_TRUE(lowered.ok()) << lowered.status().to_string();
    size_t most = 0;
    ir::visit_post_order(lowered->body, [&](const Node* node) {
      if (node->op == Op::together) most = std::max<size_t>(most, node->source_count);
    });
    EXPECT_EQ(most, count == 4 ? 4u : 0u);
    const uint64_t scalars[] = {5};
    EXPECT_EQ(*ir::evaluate_integer(thread_range(*lowered)->src(0), scalars), count == 4 ? 5 : 15);
    std::vector<int64_t> y(static_cast<size_t>(5 * count), -1);
    const ir::InterpreterBuffer buffer{reinterpret_cast<std::byte*>(y.data()), y.size() * sizeof(int64_t)};
    ASSERT_TRUE(ir::interpret(*lowered, {&buffer, 1}, scalars).ok());
    for (size_t i = 0; i < y.size(); ++i) EXPECT_EQ(y[i], static_cast<int64_t>(i));
  }
  EXPECT_FALSE(Schedule::parse("lane:pack3").ok());
  EXPECT_EQ(Schedule::parse("i:thread lane:pack4")->text(), "i:thread lane:pack4");
}

TEST(MapToInvocations, TakesOnlyScheduleItemsThatFit) {
  EXPECT_TRUE(lower_for_gpu(nested(false), *Schedule::parse("i:thread l:vec16x4")).ok());
  const auto refused = lower_for_gpu(nested(false), *Schedule::parse("z:thread"));
  EXPECT_EQ(refused.status().code(), Code::invalid_argument);
}

}  // namespace
}  // namespace sporkle::lower
