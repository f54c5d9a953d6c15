// Matrix products of bf16 for a GPU's matrix units, in `fast`. Internal.
#pragma once

#include <cstdint>
#include <string>

#include "codegen/vulkan_target.h"
#include "ir/kernel.h"
#include "tensor/shape.h"

namespace sporkle::tensor {

// An operand of bf16 as it lies in memory, in elements, over [batch..., row, column] of its matrix.
struct UnitOperand {
  Strides strides;
  int64_t offset;
};

// How a product is cut for the matrix units, and what of it has to be copied first.
struct UnitPlan {
  std::string refusal;           // why it must run elsewhere; empty: it need not
  int64_t rows, columns, depth;  // with zeros around them, where they do not suit the units
  int64_t tile, tile_depth;      // of C, square; of k
  bool copies_a, copies_b;       // into rows that the units can read
  bool direct;                   // the kernel stores the result where it belongs
};

// `batches`: their number; `result_strides`: over [batch..., row, column], in elements of `result`; `ends`: other
// operations follow the product in its kernel.
UnitPlan plan_unit_product(const codegen::VulkanTarget& target, int64_t batches, int64_t rows, int64_t columns,
                           int64_t depth, const UnitOperand& a, const UnitOperand& b, const Strides& result_strides,
                           ir::DType result, bool ends);

struct UnitProduct {
  int batch_axes;
  Strides a, b, c;               // over [batch..., m, k], [batch..., k, n], [batch..., m, n]
  ir::DType result;              // f32 or bf16
  int64_t rows, columns, depth;  // what the extents are known to be multiples of
};

// The product by its definition, which codegen/matrix_product.h finds and gives to the units. Arguments: a, b, c; batch
// extents; rows, columns and depth in the units above; strides of a, b and c that are not 0 or 1, in units of 16 bytes.
ir::Kernel trace_unit_product(const UnitProduct& product);

}  // namespace sporkle::tensor
