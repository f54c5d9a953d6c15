// A kernel that is one product of matrices, found by its form, so that a code generator may give it to a device's
// matrix units: C[batch..., m, n] = sum over k of A[batch..., m, k] * B[batch..., k, n].
//
// The form is the definition itself: loops over the batches, m and n around one store of a chain of fused multiply-adds
// over k, both factors read from memory and widened to f32, the result perhaps narrowed. What it means is what the
// interpreter makes of it; only a kernel of `fast` numerics may be computed otherwise. Plain values.
#pragma once

#include <optional>
#include <vector>

#include "ir/kernel.h"

namespace sporkle::codegen {

// Where the elements of a matrix lie: base + sum of stride * index, in elements, all of scalars and constants.
struct MatrixAccess {
  const ir::Node* buffer = nullptr;
  const ir::Node* base = nullptr;
  std::vector<const ir::Node*> batch_strides;  // as MatrixProduct::batches
  const ir::Node* row_stride = nullptr;
  const ir::Node* column_stride = nullptr;
};

struct MatrixProduct {
  std::vector<const ir::Node*> batches;  // extents, outermost first
  const ir::Node *rows = nullptr, *columns = nullptr, *depth = nullptr;
  MatrixAccess a, b, c;  // rows and columns of [m, k], [k, n], [m, n]
  // The names of the loops over m, n and k, which a schedule may speak of.
  std::string_view row_range, column_range, depth_range;
};

// Nothing where the kernel has another form. The nodes may be new ones of the kernel's Context.
std::optional<MatrixProduct> find_matrix_product(const ir::Kernel& kernel);

// The largest power of two, up to 4096, that a value of scalars and constants is a multiple of whatever the scalars
// are: 8 for n * 8. How a kernel says what is known about its shapes.
int64_t known_multiple(const ir::Node* value);

}  // namespace sporkle::codegen
