// Matrix products for GPUs: a workgroup makes a tile of C, staging tiles of A and B in workgroup memory.
//
// Which tile is a tune::GpuPlan. Every element is the same chain of fused multiply-adds over k as everywhere else
// (kernels/matmul.cc): each invocation keeps a few elements of C in registers while all of k passes by, so the bits do
// not depend on the tile. Internal.
#pragma once

#include <cstdint>

#include "dsl/kernel.h"
#include "ir/kernel.h"
#include "tensor/program.h"
#include "tune/gpu_plan.h"

namespace sporkle::tensor {

struct WorkgroupProduct {
  DType dtype;
  int batch_axes;
  Strides a, b, c;  // over [batch..., m, k], [batch..., k, n], [batch..., m, n]
  tune::GpuTile tile;
  bool whole;               // rows and columns are multiples of the tile's
  const Program* epilogue;  // or nullptr
  // Of a and b, and of c, in memory, where they are other than `dtype`, in which the product is computed.
  DType operands = DType::none, result = DType::none;
  DType operand_type() const { return operands == DType::none ? dtype : operands; }
  DType result_type() const { return result == DType::none ? dtype : result; }
};

// Arguments: a, b, the epilogue's buffers, c; batch extents, rows, columns, depth, strides of a, b and c, the
// epilogue's scalars.
ir::Kernel trace_workgroup_product(const WorkgroupProduct& product);
// One invocation for each element of C; for few rows or columns. The same arguments; the tile is of no account.
ir::Kernel trace_element_product(const WorkgroupProduct& product);

}  // namespace sporkle::tensor
