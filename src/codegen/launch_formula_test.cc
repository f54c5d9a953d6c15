#include "codegen/launch_formula.h"

#include <gtest/gtest.h>

#include <functional>

#include "dsl/kernel.h"
#include "ir/builder.h"

namespace sporkle::codegen {
namespace {

ir::Kernel kernel_of_scalars() {
  return dsl::trace("k", [](dsl::KernelBuilder& k) {
    k.size("n");
    k.scalar(ir::DType::f32, "x");
  });
}

TEST(LaunchFormula, EvaluatesFromScalars) {
  const ir::Kernel kernel = kernel_of_scalars();
  ir::Builder b(*kernel.context);
  const ir::Node *n = b.scalar(ir::DType::i64, 0, "n"), *x = b.scalar(ir::DType::f32, 1, "x");
  const ir::Node* iterations = b.div(b.add(n, b.integer(63)), b.integer(64));
  const ir::Node* scratch = b.cast(ir::DType::i64, b.unary(ir::Op::exp, x));
  const auto formula = LaunchFormula::make(kernel, iterations, scratch);
  ASSERT_TRUE(formula.ok()) << formula.status().to_string();
  EXPECT_EQ(formula->scalar_count(), 2u);
  const auto read_back = LaunchFormula::parse(formula->text());
  ASSERT_TRUE(read_back.ok()) << read_back.status().to_string();
  for (const LaunchFormula& f : {*formula, *read_back}) {
    const uint64_t scalars[] = {130, std::bit_cast<uint32_t>(2.0f)};
    EXPECT_EQ(f.evaluate(scalars).iterations, 3);
    EXPECT_EQ(f.evaluate(scalars).scratch_bytes, 7);
    const uint64_t others[] = {uint64_t(-70), 0};
    EXPECT_EQ(f.evaluate(others).iterations, 0);
    EXPECT_EQ(f.evaluate(others).scratch_bytes, 1);
  }
}

TEST(LaunchFormula, WithoutOneNothingRuns) {
  EXPECT_EQ(LaunchFormula().evaluate({}).iterations, 0);
  EXPECT_EQ(LaunchFormula().scalar_count(), 0u);
}

TEST(LaunchFormula, RefusesWhatALaunchDoesNotKnow) {
  ir::Kernel kernel = kernel_of_scalars();
  ir::Builder b(*kernel.context);
  const ir::Node* zero = b.integer(0);
  const ir::Node* range = b.range(b.integer(3), "i");
  const ir::Node* sum = b.reduce(ir::Combine::add, 1, zero, range, range);
  const auto reduced = LaunchFormula::make(kernel, sum, zero);
  EXPECT_EQ(reduced.status().code(), Code::invalid_argument);
  EXPECT_NE(reduced.status().message().find("only scalars, constants and arithmetic"), std::string::npos);
  const auto floating = LaunchFormula::make(kernel, zero, b.scalar(ir::DType::f32, 1, "x"));
  EXPECT_EQ(floating.status().code(), Code::invalid_argument);
  const std::function<const ir::Node*(int64_t, int64_t)> sum_of = [&](int64_t first, int64_t count) -> const ir::Node* {
    if (count == 1) return b.binary(ir::Op::bit_xor, b.scalar(ir::DType::i64, 0, "n"), b.integer(first));
    return b.add(sum_of(first, count / 2), sum_of(first + count / 2, count - count / 2));
  };
  const ir::Node* long_one = sum_of(1, 3000);
  const auto too_long = LaunchFormula::make(kernel, long_one, zero);
  EXPECT_EQ(too_long.status().code(), Code::invalid_argument);
  EXPECT_NE(too_long.status().message().find("at most 4096"), std::string::npos) << too_long.status().to_string();
}

TEST(LaunchFormula, RefusesOtherTexts) {
  for (const char* text : {"", "nonsense", "kernel \"launch\" strict\n", "kernel \"other\" strict\n"}) {
    const auto formula = LaunchFormula::parse(text);
    ASSERT_FALSE(formula.ok()) << text;
    EXPECT_EQ(formula.status().code(), Code::corrupt_data) << formula.status().to_string();
  }
  const char* one_store = "kernel \"launch\" strict\nbuffer sizes@0 i64 write\nscalar n$0 i64\nstore sizes@0 0 n$0\n";
  EXPECT_NE(LaunchFormula::parse(one_store).status().message().find("two stores"), std::string::npos);
}

}  // namespace
}  // namespace sporkle::codegen
