#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "dsl/kernel.h"
#include "ir/builder.h"
#include "ir/interpreter.h"
#include "lower/lower.h"

namespace sporkle::lower {
namespace {

using ir::DType;
using ir::Node;
using ir::Op;

int invocation_loops(const ir::Kernel& kernel) {
  int count = 0;
  ir::visit_post_order(kernel.body, [&](const Node* node) {
    count += node->op == Op::range && node->range_kind() == ir::RangeKind::invocation;
  });
  return count;
}

// Rows divided by the root of the sum of their elements' squares around the mean: a reduction that needs another, what
// one invocation stores for all, and a loop that needs both.
ir::Kernel normalized_rows() {
  return dsl::trace("normalized_rows", [](dsl::KernelBuilder& k) {
    const dsl::Buffer x = k.input(DType::f32, "x"), y = k.output(DType::f32, "y"),
                      roots = k.output(DType::f32, "roots");
    const dsl::Expr rows = k.size("rows"), n = k.size("n");
    k.range("r", rows, [&](dsl::Expr r) {
      const dsl::Expr sum = k.sum("a", n, DType::f32, [&](dsl::Expr c) { return x[r * n + c]; });
      const dsl::Expr root = sqrt(k.sum("b", n, DType::f32, [&](dsl::Expr c) {
        const dsl::Expr d = x[r * n + c] - sum;
        return d * d;
      }));
      roots.store(r, root);
      k.range("c", n, [&](dsl::Expr c) { y.store(r * n + c, (x[r * n + c] - sum) / root); });
    });
  });
}

TEST(ShareIterations, GivesTheBitsOfTheKernelForRowsOfEveryLength) {
  const ir::Kernel kernel = normalized_rows();
  const auto lowered = lower_for_gpu(kernel, *Schedule::parse("r:group64"));
  ASSERT_TRUE(lowered.ok()) << lowered.status().to_string();
  EXPECT_EQ(invocation_loops(*lowered), 3);
  for (const size_t n : {size_t{0}, size_t{1}, size_t{15}, size_t{16}, size_t{17}, size_t{64}, size_t{200}}) {
    constexpr size_t kRows = 3;
    std::vector<float> x(kRows * n);
    for (size_t i = 0; i < x.size(); ++i) x[i] = std::sin(static_cast<float>(i + 1));
    const auto run = [&](const ir::Kernel& of) {
      std::vector<float> y(kRows * n, -7), roots(kRows, -7);
      const ir::InterpreterBuffer buffers[] = {{reinterpret_cast<std::byte*>(x.data()), 4 * x.size()},
                                               {reinterpret_cast<std::byte*>(y.data()), 4 * y.size()},
                                               {reinterpret_cast<std::byte*>(roots.data()), 4 * roots.size()}};
      const uint64_t scalars[] = {kRows, n};
      const Status status = ir::interpret(of, buffers, scalars);
      EXPECT_TRUE(status.ok()) << status.to_string();
      y.insert(y.end(), roots.begin(), roots.end());
      return y;
    };
    const std::vector<float> expected = run(kernel), found = run(*lowered);
    EXPECT_EQ(std::memcmp(expected.data(), found.data(), 4 * expected.size()), 0) << n;
  }
}

TEST(ShareIterations, LeavesWhatItCannotShare) {
  // A sum over what an earlier statement stores.
  const ir::Kernel reread = dsl::trace("reread", [](dsl::KernelBuilder& k) {
    const dsl::Buffer x = k.in_out(DType::f32, "x"), y = k.output(DType::f32, "y");
    const dsl::Expr n = k.size("n");
    k.range("r", k.size("rows"), [&](dsl::Expr r) {
      x.store(r * n, dsl::constant(DType::f32, 1));
      y.store(r, k.sum("a", n, DType::f32, [&](dsl::Expr c) { return x[r * n + c]; }));
    });
  });
  const auto lowered = lower_for_gpu(reread, *Schedule::parse("r:group64"));
  ASSERT_TRUE(lowered.ok()) << lowered.status().to_string();
  EXPECT_EQ(invocation_loops(*lowered), 0);
  // No group item, or one of another loop.
  EXPECT_EQ(invocation_loops(*lower_for_gpu(normalized_rows(), *Schedule::parse("r:thread c:group64"))), 0);
}

TEST(ShareIterations, SharesTheLoopsInsideLoopsInOrder) {
  const ir::Kernel kernel = dsl::trace("counted", [](dsl::KernelBuilder& k) {
    const dsl::Buffer tokens = k.input(DType::i32, "tokens"), counts = k.in_out(DType::i32, "counts");
    const dsl::Expr width = k.size("width");
    k.range("t", dsl::Expr(1), [&](dsl::Expr) {
      k.serial("i", k.size("count"), [&](dsl::Expr i) {
        const dsl::Expr row = cast(DType::i64, tokens[i]) * width;
        k.range("c", width, [&](dsl::Expr c) { counts.store(row + c, counts[row + c] * 3 + cast(DType::i32, i)); });
      });
    });
  });
  const auto lowered = lower_for_gpu(kernel, *Schedule::parse("t:group16"));
  ASSERT_TRUE(lowered.ok()) << lowered.status().to_string();
  EXPECT_EQ(invocation_loops(*lowered), 1);
  std::vector<int32_t> tokens = {1, 0, 1, 1, 0};
  const auto run = [&](const ir::Kernel& of) {
    std::vector<int32_t> counts(2 * 20, 1);
    const ir::InterpreterBuffer buffers[] = {{reinterpret_cast<std::byte*>(tokens.data()), 4 * tokens.size()},
                                             {reinterpret_cast<std::byte*>(counts.data()), 4 * counts.size()}};
    const uint64_t scalars[] = {20, tokens.size()};
    EXPECT_TRUE(ir::interpret(of, buffers, scalars).ok());
    return counts;
  };
  EXPECT_EQ(run(kernel), run(*lowered));
}

}  // namespace
}  // namespace sporkle::lower
