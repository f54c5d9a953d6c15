// The kernels of matrix products on CPUs, under a tune::ProductPlan. Internal to kernels/matmul.cc.
#pragma once

#include <string>

#include "ir/kernel.h"
#include "tensor/program.h"
#include "tune/product_plan.h"

namespace sporkle::tensor {

struct CpuProduct {
  DType dtype;
  int batch_axes;
  Strides a, b, c;  // over [batch..., m, k], [batch..., k, n], [batch..., m, n]
  tune::ProductPlan::Kind kind;
  int columns;              // of a panel
  int depth;                // of slabs: rows of B in one
  int edge;                 // of packed panels: columns of the last one if it has fewer, rounded up to vectors; else 0
  int tail;                 // columns after those of the edge, one vector of half the width; else 0
  bool b_in_columns;        // neighbours along k lie side by side in B
  bool continues;           // the chain starts from C
  bool one_slab;            // k fits in a slab
  const Program* epilogue;  // or nullptr
};

// Arguments: a, b, the epilogue's buffers, c; batch extents, rows, columns, depth, rows of a block, columns of a block,
// strides of a, b and c, the epilogue's scalars.
ir::Kernel trace_panel_product(const CpuProduct& product);  // packed and in place; columns of a block are of no account
ir::Kernel trace_slab_product(const CpuProduct& product);

}  // namespace sporkle::tensor
