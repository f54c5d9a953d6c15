// Matrix products of f32 and f64 on CPUs, under a tune::ProductPlan. Internal.
#pragma once

#include <string>

#include "ir/kernel.h"
#include "tensor/program.h"
#include "tune/product_plan.h"

namespace sporkle::tensor {

class Context;

// Whether operand `number` (0: A, 1: B) of this product, which takes so many instructions an element, had better be
// computed where the product reads it than be stored first. The strides are those that the operands would have over
// the product's axes if they were stored. It is so where each element is read once, or is cheap to make again: a
// packed panel of B, or a row that passes by a few rows of A. A product of more columns than one panel has reads A
// time and again.
bool product_computes(const Context& context, const Node& product, const Strides& a, const Strides& b, int number,
                      int cost);

// ---- The kernels, for kernels/matmul.cc ----

struct CpuProduct {
  DType dtype;
  int batch_axes;
  Strides a, b, c;  // over [batch..., m, k], [batch..., k, n], [batch..., m, n]
  tune::ProductPlan::Kind kind;
  int columns;        // of a panel
  int depth;          // of slabs: rows of B in one
  int edge;           // of packed panels: columns of the last one if it has fewer, rounded up to vectors; else 0
  int tail;           // columns after those of the edge, one vector of half the width; else 0
  bool b_in_columns;  // neighbours along k lie side by side in B
  bool continues;     // the chain starts from C
  bool one_slab;      // k fits in a slab
  // Each or nullptr. Operands that are computed have no strides.
  const Program *a_program, *b_program, *epilogue;

  // The last panel is worked on up to its last column alone: what programs read there must exist.
  bool exact_edge() const { return epilogue || b_program; }
};

// Arguments: a, b (or what their programs read), the epilogue's buffers, c; batch extents, rows, columns, depth, rows
// of a block, columns of a block, strides of a, b and c, scalars of a's and b's programs and of the epilogue.
ir::Kernel trace_panel_product(const CpuProduct& product);  // packed and in place; columns of a block are of no account
ir::Kernel trace_slab_product(const CpuProduct& product);

}  // namespace sporkle::tensor
