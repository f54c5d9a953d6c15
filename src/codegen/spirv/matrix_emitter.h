// Products of matrices on a GPU's matrix units, by cooperative matrices: a workgroup makes a tile of C while all of k
// passes by, f16 or bf16 factors, sums in f32. For kernels of `fast` numerics: how the units add is the device's
// affair.
//
// Each subgroup owns 16 x 16 pieces of the tile, fed from tiles of A and B in workgroup memory, while the next ones are
// on their way to its registers. (Matrices that span a workgroup, as VK_NV_cooperative_matrix2 has them, were tried on
// an H100 and gave a quarter of the speed.)
#pragma once

#include "base/status.h"
#include "codegen/gpu_abi.h"
#include "codegen/matrix_product.h"
#include "codegen/vulkan_target.h"
#include "lower/schedule.h"

namespace sporkle::codegen::spirv {

// Of C, and of k at once; powers of two.
struct MatrixTile {
  uint32_t rows, columns, depth;
  uint32_t invocations;  // of the workgroup
};

// What the schedule's items name:matrixSIZE say about the product's ranges, else what suits the target.
MatrixTile choose_matrix_tile(const MatrixProduct& product, const VulkanTarget& target,
                              const lower::Schedule& schedule);

// unsupported says what the target or the product's layout lacks: rows of every operand must begin at multiples of
// kMatrixAlignmentBytes wherever the kernel's shapes are known to (known_multiple).
Result<GpuCode> emit_matrix_product(const ir::Kernel& kernel, const MatrixProduct& product, const MatrixTile& tile,
                                    const VulkanTarget& target);

inline constexpr uint32_t kMatrixAlignmentBytes = 16;

}  // namespace sporkle::codegen::spirv
