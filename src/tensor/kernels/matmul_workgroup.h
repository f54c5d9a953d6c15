// Matrix products for GPUs: a workgroup makes a tile of C, staging tiles of A and B in workgroup memory.
//
// Every element is the same chain of fused multiply-adds over k as everywhere else (kernels/matmul.cc): each invocation
// keeps a few elements of C in registers while all of k passes by, so the bits do not depend on the tile. Internal.
#pragma once

#include <cstdint>

#include "ir/kernel.h"
#include "tensor/program.h"

namespace sporkle::tensor {

struct WorkgroupTile {
  int64_t rows, columns, depth;   // of C, and of k staged at once
  int64_t own_rows, own_columns;  // of C, for one invocation
  int64_t invocations() const { return rows / own_rows * (columns / own_columns); }
};

struct WorkgroupProduct {
  DType dtype;
  int batch_axes;
  Strides a, b, c;  // over [batch..., m, k], [batch..., k, n], [batch..., m, n]
  WorkgroupTile tile;
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

// What suits the product of these sizes. `fused`: the device has a fused multiply-add of the type; without one, the
// code of each is long.
WorkgroupTile choose_tile(DType dtype, bool fused, int64_t rows, int64_t columns, int64_t batches);

}  // namespace sporkle::tensor
