// Products of bf16 for matrix units. Where no driver has such units, the kernels run by their definition: through the
// interpreter, and as ordinary kernels of a Vulkan driver.
#include "tensor/kernels/matmul_matrix_units.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "codegen/compile.h"
#include "codegen/gpu_abi.h"
#include "hal/reference/reference_device.h"
#include "hal/registry.h"
#include "ir/float16.h"
#include "tensor/autograd.h"
#include "tensor/low_precision.h"
#include "tensor/testing_units.h"

namespace sporkle::tensor {
namespace {

using testing::random_tensor;

using testing::kTargetWithUnits;
using Machine = testing::MachineWithUnits;

std::unique_ptr<Machine> interpreted(ir::Numerics numerics = ir::Numerics::fast) {
  return std::make_unique<Machine>(std::make_shared<hal::ReferenceDevice>(size_t{1} << 28),
                                   std::string(kTargetWithUnits), numerics);
}

using MachineMaker = std::function<std::unique_ptr<Machine>()>;

float rounded(float x) { return ir::bfloat16_to_float(ir::float_to_bfloat16(x)); }

struct Case {
  int64_t batches, rows, columns, depth;
  bool transpose_a, transpose_b, bias;
  bool to_bf16 = false;
};

// Against the f64 product of the operands rounded to bf16. Sums in f32 of exact products, in any order, differ from it
// by less than (depth + 2) 2^-23 times the sum of the magnitudes; a result in bf16 by another 2^-8 of its own.
void check(const MachineMaker& make, const Case& c, bool on_units) {
  SCOPED_TRACE(std::to_string(c.batches) + "x" + std::to_string(c.rows) + "x" + std::to_string(c.columns) + "x" +
               std::to_string(c.depth) +
               (c.transpose_a   ? " tn"
                : c.transpose_b ? " nt"
                                : " nn"));
  const std::unique_ptr<Machine> made = make();
  const Machine& machine = *made;
  Context& context = *made->context;
  const auto operand = [&](int64_t rows, int64_t columns, bool transposed, uint32_t seed) {
    if (transposed) std::swap(rows, columns);
    const Shape shape = c.batches > 1 ? Shape{c.batches, rows, columns} : Shape{rows, columns};
    const Tensor t = random_tensor(context, shape, seed);
    return transposed ? t.transpose(-1, -2) : t;
  };
  const Tensor a = operand(c.rows, c.depth, c.transpose_a, 1), b = operand(c.depth, c.columns, c.transpose_b, 2);
  const Tensor bias = random_tensor(context, {c.columns}, 3);
  Tensor product = matmul(a, b);
  if (c.bias) product = relu(product + bias);
  if (c.to_bf16) product = product.cast(DType::bf16);
  ASSERT_TRUE(realize({product}).ok());
  EXPECT_EQ(machine.count("matmul units"), on_units);
  EXPECT_EQ(machine.count("workgroup matmul"), !on_units);
  const std::vector<float> found = testing::read(product.cast(DType::f32)), plus = testing::read(bias);
  const std::vector<float> left = testing::read(a), right = testing::read(b);
  for (int64_t batch = 0; batch < c.batches; ++batch)
    for (int64_t i = 0; i < c.rows; ++i)
      for (int64_t j = 0; j < c.columns; ++j) {
        double sum = 0, magnitude = 0;
        for (int64_t k = 0; k < c.depth; ++k) {
          const double term =
              static_cast<double>(rounded(left[static_cast<size_t>((batch * c.rows + i) * c.depth + k)])) *
              rounded(right[static_cast<size_t>((batch * c.depth + k) * c.columns + j)]);
          sum += term;
          magnitude += std::abs(term);
        }
        if (c.bias) sum = std::max(sum + plus[static_cast<size_t>(j)], 0.0);
        const double bound = static_cast<double>(c.depth + 2) * 0x1p-23 * (magnitude + 2);
        ASSERT_NEAR(found[static_cast<size_t>((batch * c.rows + i) * c.columns + j)], sum,
                    bound + (c.to_bf16 ? 0x1p-8 * std::abs(sum) : 0))
            << batch << " " << i << " " << j;
      }
}

TEST(MatrixUnitProduct, TrainingsThreeProductsRunOnUnits) {
  const MachineMaker make = [] { return interpreted(); };
  for (const bool bias : {false, true}) {
    check(make, {1, 32, 48, 24, false, false, bias}, true);
    check(make, {1, 32, 48, 24, false, true, bias}, true);
    check(make, {1, 32, 48, 24, true, false, bias}, true);
  }
  check(make, {3, 16, 32, 8, false, false, false}, true);
  check(make, {1, 32, 16, 16, false, false, false, true}, true);
}

TEST(MatrixUnitProduct, WhatIsTooSmallRunsInWorkgroups) {
  const MachineMaker make = [] { return interpreted(); };
  for (const bool bias : {false, true}) {
    check(make, {1, 1, 40, 24, false, false, bias}, false);   // one row: by element
    check(make, {1, 33, 20, 13, false, false, bias}, false);  // edges, not worth copies
    check(make, {1, 33, 20, 13, true, false, bias, true}, false);
    check(make, {1, 33, 20, 13, false, true, bias}, false);
  }
}

UnitPlan plan(int64_t rows, int64_t columns, int64_t depth, bool ends = false, int64_t offset = 0) {
  return plan_unit_product(*codegen::VulkanTarget::parse(kTargetWithUnits), 1, rows, columns, depth,
                           {{depth, 1}, offset}, {{columns, 1}, 0}, {columns, 1}, DType::f32, ends);
}

TEST(MatrixUnitProduct, CopiesWhatDoesNotSuit) {
  const UnitPlan whole = plan(8192, 768, 768);
  EXPECT_TRUE(whole.refusal.empty() && whole.direct && !whole.copies_a && !whole.copies_b);
  EXPECT_EQ(whole.tile, 128);
  EXPECT_EQ(plan(768, 768, 8192).tile, 64);  // 36 tiles of 128 would leave most of a GPU idle
  const UnitPlan vocabulary = plan(1024, 50257, 768);
  EXPECT_EQ(vocabulary.columns, 50304);  // whole tiles
  EXPECT_TRUE(!vocabulary.copies_a && vocabulary.copies_b && !vocabulary.direct);
  EXPECT_EQ(plan(1000, 1024, 1024).rows, 1000 + 24);
  EXPECT_EQ(plan(130, 1024, 1024).rows, 144);  // to a tile would be nearly twice as much
  EXPECT_TRUE(plan(1024, 1024, 1024, false, 4).copies_a);
  EXPECT_FALSE(plan(1024, 1024, 1024, true).direct);
}

TEST(MatrixUnitProduct, SaysWhyNot) {
  EXPECT_NE(plan(4, 1024, 1024).refusal.find("fewer than 16 rows"), std::string::npos);
  EXPECT_NE(plan(33, 20, 13).refusal.find("too small"), std::string::npos);
  codegen::VulkanTarget without;
  EXPECT_NE(plan_unit_product(without, 1, 64, 64, 64, {{64, 1}, 0}, {{64, 1}, 0}, {64, 1}, DType::f32, false)
                .refusal.find("none for bf16"),
            std::string::npos);
}

// The generator takes every kernel that is planned: else it would run as an ordinary one.
TEST(MatrixUnitProduct, EveryFormCompilesForTheUnits) {
  for (const Strides& a : {Strides{512, 1}, Strides{1, 512}, Strides{512, 512, 1}, Strides{0, 1, 512}})
    for (const Strides& b : {Strides{512, 1}, Strides{1, 512}})
      for (const DType result : {DType::f32, DType::bf16})
        for (const int64_t tile : {64, 128})
          for (const bool whole : {false, true}) {
            Strides b_strides, c_strides;
            if (a.rank() == 3) {
              b_strides.push_back(0);
              c_strides.push_back(1024);
            }
            for (const int64_t stride : b) b_strides.push_back(stride);
            for (const int64_t stride : {512, 1}) c_strides.push_back(stride);
            const UnitProduct product{
                a.rank() - 2, a, b_strides, c_strides, result, whole ? tile : 16, whole ? tile : 16, whole ? 64 : 8};
            const std::string size = std::to_string(tile);
            const auto schedule = lower::Schedule::parse("m:matrix" + size + " n:matrix" + size + " k:matrix64");
            const auto bytes = codegen::compile(trace_unit_product(product), *schedule, kTargetWithUnits);
            ASSERT_TRUE(bytes.ok()) << bytes.status().to_string();
            const auto code = codegen::decode_gpu_code(*bytes);
            ASSERT_TRUE(code.ok());
            EXPECT_EQ(code->iterations_per_workgroup, 1u);
            EXPECT_EQ(code->buffers[0].alignment_bytes, 16u);
            EXPECT_GT(code->shared_bytes, 0u);
          }
}

TEST(MatrixUnitProduct, GradientsRunOnUnits) {
  const auto machine = interpreted();
  Context& c = *machine->context;
  const Tensor x = random_tensor(c, {32, 48}, 1), w = random_tensor(c, {48, 16}, 2), y = random_tensor(c, {16, 32}, 3);
  const auto gradients = grad(sum(sin(matmul(tanh(matmul(x, w)), y))), std::array{x, w, y});
  ASSERT_TRUE(gradients.ok()) << gradients.status().to_string();
  ASSERT_TRUE(realize(*gradients).ok());
  EXPECT_GE(machine->count("matmul units"), 3);  // nn, nt, tn
  EXPECT_EQ(machine->count("workgroup matmul"), 0);
}

TEST(MatrixUnitProduct, StrictNeverUsesThem) {
  const auto machine = interpreted(ir::Numerics::strict);
  Context& c = *machine->context;
  EXPECT_FALSE(multiplies_bf16(c));
  const Tensor product = matmul(random_tensor(c, {32, 16}, 1), random_tensor(c, {16, 32}, 2));
  ASSERT_TRUE(realize({product}).ok());
  EXPECT_EQ(machine->count("matmul units"), 0);
  EXPECT_EQ(machine->count("workgroup matmul"), 1);
}

// By a driver: sizes that the interpreter is too slow for, with operands that have to be copied.
TEST(MatrixUnitProduct, CopiesRunOnADriver) {
  auto opened = hal::open_device("vulkan:0");
  if (!opened.ok()) GTEST_SKIP() << opened.status().message();
  const auto real = codegen::VulkanTarget::parse((*opened)->info().target);
  ASSERT_TRUE(real.ok());
  if (!real->storage16) GTEST_SKIP() << "the device has no buffers of 16-bit numbers";
  auto target = *real;
  target.matrix_bf16 = true;
  if (target.subgroup == 0) target.subgroup = 32;
  const MachineMaker make = [&] { return std::make_unique<Machine>(*opened, target.text()); };
  check(make, {1, 200, 151, 150, false, false, false}, true);
  check(make, {1, 200, 151, 150, false, true, true}, true);
  check(make, {1, 200, 151, 150, true, false, true}, true);
  check(make, {2, 130, 140, 131, true, true, true, true}, true);
  check(make, {1, 256, 128, 128, false, true, true}, true);
  check(make, {1, 33, 20, 13, false, false, true}, false);
}

}  // namespace
}  // namespace sporkle::tensor
