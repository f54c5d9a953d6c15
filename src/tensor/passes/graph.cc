#include "tensor/passes/graph.h"

#include <algorithm>

#include "tensor/context.h"
#include "tensor/graph.h"

namespace sporkle::tensor {
namespace {

// Everything without storage that `roots` need, operands first.
std::vector<NodeRef> collect(Context& context, std::span<const NodeRef> roots) {
  const uint64_t epoch = context.next_epoch();
  std::vector<NodeRef> nodes;
  struct Frame {
    NodeRef node;
    size_t next;
  };
  std::vector<Frame> stack;  // graphs may be deeper than the call stack
  const auto enter = [&](const NodeRef& node) {
    if (node->epoch == epoch || node->storage) return;
    node->epoch = epoch;
    stack.push_back({node, 0});
  };
  for (const NodeRef& root : roots) {
    enter(root);
    while (!stack.empty()) {
      Frame& frame = stack.back();
      if (frame.next < frame.node->inputs.size()) {
        const NodeRef input = frame.node->inputs[frame.next++];
        enter(input);
        continue;
      }
      nodes.push_back(std::move(frame.node));
      stack.pop_back();
    }
  }
  return nodes;
}

// Whether a reshape of `input` has strides, as Tensor::reshape sees to when it makes one.
bool can_reshape(const NodeRef& input, const Shape& to) {
  View view;
  Strides strides;
  resolve(input.get(), &view);
  return reshape_strides(input->shape, view.strides, to, &strides);
}

}  // namespace

NodeRef clone_with_inputs(const Node& node, std::vector<NodeRef> inputs) {
  NodeRef clone = std::make_shared<Node>();
  clone->op = node.op;
  clone->dtype = node.dtype;
  clone->shape = node.shape;
  clone->context = node.context;
  clone->inputs = std::move(inputs);
  clone->dims = node.dims;
  clone->number = node.number;
  clone->run_time = node.run_time;
  clone->position = node.position;
  clone->gradient = node.gradient;
  clone->recomputed = node.recomputed;
  clone->call = node.call;
  clone->source = node.source;
  return clone;
}

Graph::Graph(Context& context, std::span<const NodeRef> roots)
    : context_(&context), nodes_(collect(context, roots)), roots_(roots.begin(), roots.end()) {}

size_t Graph::substitute(const Rule& rule, const InputRule& choose_input) {
  epoch_ = context_->next_epoch();
  const std::vector<NodeRef> before = std::move(nodes_);
  nodes_.clear();
  nodes_.reserve(before.size());
  std::vector<NodeRef> replacements;
  replacements.reserve(before.size());
  for (size_t i = 0; i < before.size(); ++i) {
    before[i]->epoch = epoch_;
    before[i]->plan_index = static_cast<int>(i);
  }
  const auto replacement = [&](const NodeRef& node) -> const NodeRef& {
    // A node that a rule has made has no place in the list before.
    const auto index = static_cast<size_t>(node->plan_index);
    return node->epoch == epoch_ && index < before.size() && before[index] == node ? replacements[index] : node;
  };

  size_t replaced = 0;
  for (const NodeRef& node : before) {
    NodeRef now = node;
    bool changed = false;
    std::vector<NodeRef> inputs;
    inputs.reserve(node->inputs.size());
    for (const NodeRef& input : node->inputs) {
      inputs.push_back(replacement(input));
      if (choose_input) inputs.back() = choose_input(*node, inputs.back());
      changed |= inputs.back() != input;
    }
    if (changed) now = with_inputs(node, std::move(inputs));
    NodeRef result = rule(now);
    // Unless it has a place already. (Every node of `before` has the mark, but a rule has not seen the later ones.)
    if (result == node)
      nodes_.push_back(node);
    else if (result == now || !(result->storage || result->epoch == epoch_))
      add(result);
    replaced += result != now;
    replacements.push_back(std::move(result));
  }
  for (NodeRef& root : roots_) {
    root = replacement(root);
    if (root->storage || !is_movement(root->op)) continue;
    root = copy_of(Tensor(root)).node();
    add(root);
  }
  return replaced;
}

void Graph::add(NodeRef node) {
  node->epoch = epoch_;
  node->plan_index = -1;
  nodes_.push_back(std::move(node));
}

NodeRef Graph::with_inputs(const NodeRef& node, std::vector<NodeRef> inputs) {
  if (node->op == Op::reshape && !can_reshape(inputs[0], node->shape)) {
    inputs[0] = copy_of(Tensor(inputs[0])).node();
    add(inputs[0]);
  }
  // Kernel calls read rows as they lie in memory: Tensor::contiguous saw to it for what they read before.
  if (node->op == Op::call || node->op == Op::pack)
    for (NodeRef& input : inputs) {
      if (std::ranges::find(node->inputs, input) != node->inputs.end()) continue;
      NodeRef contiguous = Tensor(input).contiguous(input->source).node();
      if (contiguous == input) continue;
      input = std::move(contiguous);
      add(input);
    }
  return clone_with_inputs(*node, std::move(inputs));
}

void Graph::drop_unread() { nodes_ = collect(*context_, roots_); }

}  // namespace sporkle::tensor
