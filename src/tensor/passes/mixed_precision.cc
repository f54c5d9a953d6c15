// Automatic mixed precision (Micikevicius et al., "Mixed Precision Training", 2018): products of f32 read their
// operands in 16 bits and sum in f32; everything else, parameters and optimiser included, stays f32.
//
// An operand is cast once for all products that read it, behind the views through which they see it, so that the cast
// joins the kernel that makes the value. bf16 products run on the processor's own instructions
// (kernels/matmul_low_precision.cc) or a GPU's matrix units (kernels/matmul_matrix_units.cc); f16, and bf16 where there
// is no such kernel, are widened again, which rounds the same operands and is no faster.
#include <unordered_map>

#include "tensor/context.h"
#include "tensor/graph.h"
#include "tensor/low_precision.h"
#include "tensor/passes/passes.h"

namespace sporkle::tensor {
namespace {

class Narrowing {
 public:
  explicit Narrowing(Graph& graph) : graph_(graph), type_(graph.context().options().product_type) {
    widens_ = type_ != DType::bf16 || !multiplies_bf16(graph.context());
  }

  NodeRef operator()(const NodeRef& node) {
    if (node->op != Op::matmul || node->dtype != DType::f32 || node->inputs[0]->dtype != DType::f32) return node;
    return clone_with_inputs(*node, {operand(node->inputs[0]), operand(node->inputs[1])});
  }

 private:
  NodeRef operand(const NodeRef& node) {
    NodeRef& made = made_[node.get()];
    if (made) return made;
    const bool was_narrow = node->op == Op::cast && !node->storage && node->inputs[0]->dtype == type_;
    if (was_narrow && !widens_) return made = node->inputs[0];
    if (is_movement(node->op) && !node->storage) {
      NodeRef moved = clone_with_inputs(*node, {operand(node->inputs[0])});
      moved->dtype = moved->inputs[0]->dtype;
      return added(node, std::move(moved));
    }
    NodeRef cast = make_node(Op::cast, graph_.context(), type_, node->shape, {node});
    cast->source = node->source;
    if (!widens_) return added(node, std::move(cast));
    NodeRef wide = make_node(Op::cast, graph_.context(), DType::f32, node->shape, {cast});
    wide->source = node->source;
    graph_.add(std::move(cast));
    return added(node, std::move(wide));
  }

  NodeRef added(const NodeRef& node, NodeRef made) {
    graph_.add(made);
    return made_[node.get()] = std::move(made);
  }

  Graph& graph_;
  const DType type_;
  bool widens_;
  std::unordered_map<const Node*, NodeRef> made_;  // by what it is in f32
};

}  // namespace

Status choose_precision(Planning& planning) {
  const ContextOptions& options = planning.graph.context().options();
  if (options.numerics != ir::Numerics::fast || options.product_type == DType::f32) return {};
  Narrowing narrow(planning.graph);
  planning.graph.substitute([&](const NodeRef& node) { return narrow(node); });
  return {};
}

}  // namespace sporkle::tensor
