#include "dsl/kernel.h"

#include <gtest/gtest.h>

#include "ir/interpreter.h"
#include "ir/verifier.h"

namespace sporkle::dsl {
namespace {

using ir::DType;

uint64_t bits(float x) { return std::bit_cast<uint32_t>(x); }

ir::InterpreterBuffer view(std::vector<float>& v) {
  return {reinterpret_cast<std::byte*>(v.data()), v.size() * sizeof(float)};
}

TEST(Trace, SaxpyComputes) {
  const ir::Kernel kernel = trace("saxpy", [](KernelBuilder& k) {
    const Expr n = k.size("n"), a = k.scalar(DType::f32, "a");
    const Buffer x = k.input(DType::f32, "x"), y = k.in_out(DType::f32, "y");
    k.range("i", n, [&](Expr i) { y.store(i, fma(a, x[i], y[i])); });
  });
  ASSERT_TRUE(ir::verify(kernel).ok()) << ir::verify(kernel).to_string();
  std::vector<float> x{1, 2, 3}, y{10, 20, 30};
  const ir::InterpreterBuffer buffers[] = {view(x), view(y)};
  const uint64_t scalars[] = {3, bits(2.0f)};
  ASSERT_TRUE(ir::interpret(kernel, buffers, scalars).ok());
  EXPECT_EQ(y, (std::vector<float>{12, 24, 36}));
}

TEST(Trace, WholeNumbersTakeTheOtherSidesType) {
  const ir::Kernel kernel = trace("scale", [](KernelBuilder& k) {
    const Buffer x = k.in_out(DType::f32, "x");
    k.range("i", k.size("n"), [&](Expr i) { x.store(i, 1 + x[i] * 2); });
  });
  std::vector<float> x{1, 2, 3};
  const ir::InterpreterBuffer buffers[] = {view(x)};
  const uint64_t scalars[] = {3};
  ASSERT_TRUE(ir::interpret(kernel, buffers, scalars).ok());
  EXPECT_EQ(x, (std::vector<float>{3, 5, 7}));
}

TEST(Trace, SumAndMaximumOfRows) {
  const ir::Kernel kernel = trace("rows", [](KernelBuilder& k) {
    const Expr rows = k.size("rows"), columns = k.size("columns");
    const Buffer x = k.input(DType::f32, "x"), sums = k.output(DType::f32, "sums"), tops = k.output(DType::f32, "tops");
    k.range("r", rows, [&](Expr r) {
      sums.store(r, k.sum("c", columns, DType::f32, [&](Expr c) { return x[r * columns + c]; }));
      tops.store(r, k.maximum("c", columns, DType::f32, [&](Expr c) { return x[r * columns + c]; }));
    });
  });
  std::vector<float> x(2 * 37), sums(2), tops(2);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i);
  const ir::InterpreterBuffer buffers[] = {view(x), view(sums), view(tops)};
  const uint64_t scalars[] = {2, 37};
  ASSERT_TRUE(ir::interpret(kernel, buffers, scalars).ok());
  EXPECT_EQ(sums, (std::vector<float>{36 * 37 / 2, 36 * 37 / 2 + 37 * 37}));
  EXPECT_EQ(tops, (std::vector<float>{36, 73}));
}

}  // namespace
}  // namespace sporkle::dsl
