// What realize() is about to compute, as the graph passes see and change it. Internal; belongs to its Context's thread.
//
// The nodes of the lazy graph belong to whoever holds tensors, and gradients may still be taken of them, so passes
// never change one: they make other nodes and give those to the readers. A node that reads something else than before
// is itself a new node.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "tensor/node.h"

namespace sporkle::tensor {

class Graph {
 public:
  // Everything without storage that `roots` need. Roots are no movements and no errors.
  Graph(Context& context, std::span<const NodeRef> roots);

  Context& context() const { return *context_; }
  // Operands before their readers. Nodes with storage are not among them: they are read as they are.
  const std::vector<NodeRef>& nodes() const { return nodes_; }
  // What must be stored, in the order in which they were given; afterwards perhaps another node than the one given, or
  // one that has storage already. Never a movement.
  const std::vector<NodeRef>& roots() const { return roots_; }

  // Visits the nodes, operands first, each after its inputs have been replaced. `rule` gives the node itself, or what
  // its readers shall read instead: the same elements of the same type and shape, as a node that it has seen before or
  // that has storage, or as a new node whose inputs are such or have been added. Returns how many nodes were replaced.
  // `choose_input` may give a reader something else for one of its inputs than its other readers read.
  using Rule = std::function<NodeRef(const NodeRef& node)>;
  using InputRule = std::function<NodeRef(const Node& reader, const NodeRef& input)>;
  size_t substitute(const Rule& rule, const InputRule& choose_input = {});
  // For a rule that gives a new node: another new node, which that one reads.
  void add(NodeRef node);

  // Leaves out what no root needs any more.
  void drop_unread();

 private:
  NodeRef with_inputs(const NodeRef& node, std::vector<NodeRef> inputs);

  Context* context_;
  std::vector<NodeRef> nodes_, roots_;
  uint64_t epoch_ = 0;  // marks, in the course of a substitution, what stands in the list
};

// A node like this one that reads `inputs`; it has no storage.
NodeRef clone_with_inputs(const Node& node, std::vector<NodeRef> inputs);

}  // namespace sporkle::tensor
