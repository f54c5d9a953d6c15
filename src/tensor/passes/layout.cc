// In which order of their axes pointwise results lie in memory.
//
// A pointwise operation computes the same elements in any order. Where its operands lie in memory in another order of
// axes than it has, and what reads it brings the axes back into that order (images that go from one convolution to the
// next in [images, height, width, channels], say), it runs in the order of memory, and is seen through the permutation:
// nothing is transposed on the way, and a copy into that order has nothing left to do.
#include <algorithm>
#include <unordered_map>

#include "base/log.h"
#include "tensor/graph.h"
#include "tensor/passes/passes.h"
#include "tensor/pointwise.h"

namespace sporkle::tensor {
namespace {

bool is_operation(const Node& node, Op op) { return node.op == op && !node.storage; }

// A result of a kernel that lies in the order of its own axes. (A constant lies nowhere: a copy gives it a place.)
bool is_made_in_order(const Node& node) {
  const bool source = node.op == Op::uniform || node.op == Op::normal;
  return !node.storage && ((is_pointwise(node.op) && !source) || node.op == Op::matmul || node.op == Op::reduce);
}

Dims inverse(const Dims& order) {
  Dims result = order;
  for (int i = 0; i < order.rank(); ++i) result[static_cast<int>(order[i])] = i;
  return result;
}

bool is_identity(const Dims& order) {
  for (int i = 0; i < order.rank(); ++i)
    if (order[i] != i) return false;
  return true;
}

// `x` with its axes in another order; what undoes a permutation gives what is behind it.
NodeRef permuted(const NodeRef& x, const Dims& order, Graph* graph) {
  if (is_operation(*x, Op::permute)) {
    Dims joined = order;
    for (int i = 0; i < order.rank(); ++i) joined[i] = x->dims[static_cast<int>(order[i])];
    if (is_identity(joined)) return x->inputs[0];
  }
  NodeRef node = clone_with_inputs(*x, {x});
  node->op = Op::permute;
  node->dims = order;
  node->number = 0;
  node->run_time = -1;
  node->call.reset();
  for (int i = 0; i < order.rank(); ++i) node->shape[i] = x->shape[static_cast<int>(order[i])];
  graph->add(node);
  return node;
}

// How results are read, from the graph as it was.
class Readers {
 public:
  explicit Readers(const Graph& graph) {
    for (const NodeRef& root : graph.roots()) of_[root.get()].as_it_is = true;
    const std::vector<NodeRef>& nodes = graph.nodes();
    for (auto node = nodes.rbegin(); node != nodes.rend(); ++node)
      for (const NodeRef& input : (*node)->inputs) note(**node, input.get());
  }

  // Whether `node` is seen in this order of its axes and nobody needs it in its own, directly or behind pointwise
  // operations.
  bool want(const Node* node, const Dims& order) const {
    const auto found = of_.find(node);
    return found != of_.end() && !found->second.as_it_is &&
           std::ranges::find(found->second.orders, order) != found->second.orders.end();
  }

 private:
  struct Uses {
    bool as_it_is = false;  // by what reads rows as they lie
    std::vector<Dims> orders;
  };

  void note(const Node& reader, const Node* node) {
    std::vector<Dims> orders;
    const bool pointwise = is_pointwise(reader.op) && !reader.storage;
    if (is_operation(reader, Op::permute)) {
      orders.push_back(reader.dims);
    } else if (pointwise) {
      if (const auto found = of_.find(&reader); found != of_.end()) {
        orders = found->second.orders;
        if (found->second.as_it_is) of_[node].as_it_is = true;
      }
    } else {
      of_[node].as_it_is = true;
    }
    std::vector<Dims>& all = of_[node].orders;
    for (const Dims& order : orders)
      if (std::ranges::find(all, order) == all.end()) all.push_back(order);
  }

  std::unordered_map<const Node*, Uses> of_;
};

}  // namespace

Status choose_layouts(Planning& planning) {
  Graph& graph = planning.graph;
  const Readers readers(graph);
  const Node* given = nullptr;  // the node in question as the readers know it, before its inputs were replaced
  size_t moved = 0;
  const auto note_reader = [&](const Node& reader, const NodeRef& input) {
    given = &reader;
    return input;
  };
  const auto rule = [&](const NodeRef& node) -> NodeRef {
    if (is_operation(*node, Op::permute))
      return is_operation(*node->inputs[0], Op::permute) ? permuted(node->inputs[0], node->dims, &graph) : node;
    if (!is_pointwise(node->op) || node->storage || node->inputs.empty()) return node;
    if (node->op == Op::copy && is_made_in_order(*node->inputs[0])) return node->inputs[0];
    const auto moves =
        std::ranges::find_if(node->inputs, [](const NodeRef& x) { return is_operation(*x, Op::permute); });
    if (moves == node->inputs.end()) return node;
    const Dims order = (*moves)->dims, back = inverse(order);
    for (const NodeRef& input : node->inputs) {
      const bool free = is_operation(*input, Op::constant) || is_operation(*input, Op::expand);
      if (!free && !(is_operation(*input, Op::permute) && input->dims == order)) return node;
    }
    if (!readers.want(given, back)) return node;
    std::vector<NodeRef> inputs;
    for (const NodeRef& input : node->inputs) inputs.push_back(permuted(input, back, &graph));
    NodeRef in_memory = clone_with_inputs(*node, std::move(inputs));
    in_memory->shape = in_memory->inputs[0]->shape;
    graph.add(in_memory);
    ++moved;
    return permuted(in_memory, order, &graph);
  };
  graph.substitute(rule, note_reader);
  if (moved > 0 && debug_level() >= 2)
    log(LogLevel::info, "pass", "layout: " + std::to_string(moved) + " operations run in the order of memory");
  return {};
}

}  // namespace sporkle::tensor
