// The one place that decides which operations run together. Internal.
//
// - Movements never run: they are composed into the accesses of whoever reads through them.
// - A pointwise operation joins the kernel of its only reader; one with several readers runs in each of them if it is
//   cheaper than a load, else once, and its result is stored. Sources (constants, indices, random numbers) always join.
// - A reduction takes in the pointwise operations that make its operand.
// - The pointwise operations after a matrix product become its epilogue when nothing else reads the product.
// - Those that make an operand of a product on a CPU become its prologue where the product reads each element of the
//   operand hardly more than once (kernels/matmul_cpu.h): they run where that is packed, and it is never stored.
//
// No choice changes a bit of any result: every operation rounds on its own, and orders of reduction depend on the
// shapes in the graph alone.
#pragma once

#include <span>
#include <vector>

#include "base/status.h"
#include "tensor/passes/graph.h"
#include "tensor/program.h"

namespace sporkle::tensor {

// A matrix operand of a product, over the product's batch axes, rows and columns: a view of stored elements, or what
// `program` computes.
struct MatrixOperand {
  Node* base = nullptr;  // null where it is computed
  View view;             // there as if the last operation's result lay row-major: for plans to go by
  Program program;       // result -1: none

  bool computed() const { return program.result >= 0; }
};

// One or a few launches that give nodes their storage.
struct Step {
  enum class Kind : uint8_t { pointwise, reduce, matmul, call, pack };
  Kind kind;
  Node* node = nullptr;              // what runs: the pointwise root, the reduction, the product, the call, the pack
  std::vector<Node*> results;        // a call's in order; null for one that nobody wants
  std::vector<Node*> reads;          // nodes whose storage the step reads
  Program program;                   // pointwise; a reduction's operand; a product's epilogue (result -1: none)
  MatrixOperand a, b;                // of matmul
  Strides result_strides;            // of matmul: where its elements go in results[0]
  std::vector<NodeRef> temporaries;  // nodes that only the plan knows
};

// The steps that give the graph's roots storage, in order; roots that have it need none.
Result<std::vector<Step>> fuse(const Graph& graph);

}  // namespace sporkle::tensor
