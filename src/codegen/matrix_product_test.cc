#include "codegen/matrix_product.h"

#include <gtest/gtest.h>

#include "codegen/compile.h"
#include "codegen/gpu_abi.h"
#include "dsl/kernel.h"
#include "ir/builder.h"
#include "lower/lower.h"

namespace sporkle::codegen {
namespace {

using dsl::Buffer;
using dsl::Expr;
using ir::DType;

// A product of [m, k] and [k, n], the second perhaps stored as [n, k]; extents are multiples of `unit`.
ir::Kernel product(DType in, DType out, bool b_transposed, int64_t unit, ir::Numerics numerics = ir::Numerics::fast) {
  return dsl::trace(
      "matmul",
      [&](dsl::KernelBuilder& k) {
        const Buffer a = k.input(in, "a"), b = k.input(in, "b"), c = k.output(out, "c");
        const Expr m = k.size("m") * unit, n = k.size("n") * unit, depth = k.size("k") * unit;
        k.range("m", m, [&](Expr i) {
          k.range("n", n, [&](Expr j) {
            const Expr sum = k.fma_chain("k", depth, dsl::constant(DType::f32, 0.0), [&](Expr l) {
              return std::pair(cast(DType::f32, a[i * depth + l]),
                               cast(DType::f32, b_transposed ? b[j * depth + l] : b[l * n + j]));
            });
            c.store(i * n + j, out == DType::f32 ? sum : cast(out, sum));
          });
        });
      },
      numerics);
}

constexpr std::string_view kTarget = "vulkan:storage16,fma32,matrixf16,matrixbf16,subgroup32,workgroup1024,shared48";

Result<GpuCode> compiled(const ir::Kernel& kernel, std::string_view target, std::string_view schedule = "") {
  SPORKLE_ASSIGN_OR_RETURN(const auto parsed, lower::Schedule::parse(schedule));
  SPORKLE_ASSIGN_OR_RETURN(const auto bytes, compile(kernel, parsed, target));
  return decode_gpu_code(bytes);
}

TEST(MatrixProduct, FindsTheProductAndItsStrides) {
  const ir::Kernel kernel = lower::clone(product(DType::bf16, DType::f32, true, 16));
  const auto found = find_matrix_product(kernel);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->a.buffer->name, "a");
  EXPECT_EQ(found->b.buffer->name, "b");
  EXPECT_TRUE(found->a.column_stride->is_constant(1));
  EXPECT_TRUE(found->b.row_stride->is_constant(1));
  EXPECT_EQ(found->b.column_stride, found->depth);
  EXPECT_EQ(found->c.row_stride, found->columns);
  EXPECT_EQ(known_multiple(found->rows), 16);
  EXPECT_EQ(found->depth_range, "k");
}

TEST(MatrixProduct, IsNoOtherKernel) {
  const auto found_in = [](const std::function<void(dsl::KernelBuilder&)>& define) {
    return find_matrix_product(lower::clone(dsl::trace("other", define, ir::Numerics::fast))).has_value();
  };
  EXPECT_FALSE(found_in([](dsl::KernelBuilder& k) {
    const Buffer x = k.input(DType::f32, "x"), y = k.output(DType::f32, "y");
    k.range("i", k.size("n"), [&](Expr i) { y.store(i, x[i]); });
  }));
  EXPECT_FALSE(found_in([](dsl::KernelBuilder& k) {  // the square of an index is no stride
    const Buffer a = k.input(DType::f32, "a"), c = k.output(DType::f32, "c");
    const Expr n = k.size("n");
    k.range("i", n, [&](Expr i) {
      k.range("j", n, [&](Expr j) {
        c.store(i * n + j, k.fma_chain("k", n, dsl::constant(DType::f32, 0.0),
                                       [&](Expr l) { return std::pair(a[i * i + l], a[l * n + j]); }));
      });
    });
  }));
}

TEST(MatrixProduct, RunsOnMatrixUnitsWhereItMay) {
  const auto code = compiled(product(DType::bf16, DType::f32, false, 128), kTarget, "m:matrix64 n:matrix128");
  ASSERT_TRUE(code.ok()) << code.status().to_string();
  EXPECT_EQ(code->iterations_per_workgroup, 1u);
  EXPECT_EQ(code->buffers[0].alignment_bytes, 16u);
  EXPECT_GT(code->shared_bytes, 0u);
  // 2 x 128 rows in tiles of 64, 3 x 128 columns in tiles of 128.
  EXPECT_EQ(code->launch.evaluate(std::vector<uint64_t>{2, 3, 4}).iterations, 4 * 3);
}

TEST(MatrixProduct, RunsElsewhereWhereItMayNot) {
  const std::string_view without = "vulkan:storage16,fma32,subgroup32,workgroup1024,shared48";
  for (const auto& [kernel, target] :
       {std::pair(product(DType::bf16, DType::f32, false, 128), without),  // no units
        std::pair(product(DType::bf16, DType::f32, false, 1), kTarget),    // rows of any length
        std::pair(product(DType::bf16, DType::f32, false, 128, ir::Numerics::strict), kTarget)}) {
    const auto code = compiled(kernel, target);
    ASSERT_TRUE(code.ok()) << code.status().to_string();
    EXPECT_GT(code->iterations_per_workgroup, 1u);
    EXPECT_EQ(code->buffers[0].alignment_bytes, 1u);
  }
}

}  // namespace
}  // namespace sporkle::codegen
