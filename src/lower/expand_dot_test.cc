#include <gtest/gtest.h>

#include <random>

#include "dsl/kernel.h"
#include "ir/interpreter.h"
#include "ir/verifier.h"
#include "lower/lower.h"

namespace sporkle::lower {
namespace {

using dsl::Expr;
using ir::DType;

// A chain of dot products, and one on its own.
ir::Kernel dots(DType type) {
  return dsl::trace(
      "dots",
      [&](dsl::KernelBuilder& k) {
        const dsl::Buffer a = k.input(DType::u32, "a"), b = k.input(DType::u32, "b"), y = k.output(type, "y");
        const Expr n = k.size("n");
        y.store(0, k.dot_chain("k", n, dsl::constant(type, 3), [&](Expr i) { return std::pair(a[i], b[i]); }));
        y.store(1, dsl::dot(a[0], b[0], dsl::constant(type, -1)));
      },
      ir::Numerics::fast);
}

TEST(ExpandDot, KeepsEveryBit) {
  constexpr size_t kCount = 37;
  std::mt19937 random(1);
  for (const DType type : {DType::f32, DType::i32}) {
    std::vector<uint32_t> a(kCount), b(kCount);
    for (std::vector<uint32_t>* words : {&a, &b})
      for (uint32_t& word : *words) word = type == DType::i32 ? random() : (random() & 0x83ff83ff) | 0x3c003c00;
    const ir::Kernel kernel = dots(type), expanded = expand_dot(kernel);
    ASSERT_TRUE(ir::verify(expanded).ok()) << ir::verify(expanded).to_string();
    ir::visit_post_order(expanded.body, [](const ir::Node* node) {
      EXPECT_NE(node->op, ir::Op::dot);
      EXPECT_FALSE(node->op == ir::Op::reduce && node->combine() == ir::Combine::dot);
    });
    uint32_t results[2][2] = {};
    for (int i = 0; i < 2; ++i) {
      const ir::InterpreterBuffer buffers[] = {{reinterpret_cast<std::byte*>(a.data()), 4 * kCount},
                                               {reinterpret_cast<std::byte*>(b.data()), 4 * kCount},
                                               {reinterpret_cast<std::byte*>(results[i]), 8}};
      const Status status = ir::interpret(i == 0 ? kernel : expanded, buffers, std::vector<uint64_t>{kCount});
      ASSERT_TRUE(status.ok()) << status.to_string();
    }
    EXPECT_EQ(results[0][0], results[1][0]);
    EXPECT_EQ(results[0][1], results[1][1]);
  }
}

}  // namespace
}  // namespace sporkle::lower
