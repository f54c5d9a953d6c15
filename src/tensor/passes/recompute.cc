// Recomputation of activations (Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174): of
// what the way back reads, only some values are kept from the way forward, and what lies between is computed again from
// them.
//
// The places to keep are found in the graph: where the way forward has one value alone that is still to be read, as a
// residual network has between its blocks. Nothing is known of models here. What is computed again has the same bits.
#include <algorithm>
#include <unordered_map>

#include "tensor/passes/passes.h"

namespace sporkle::tensor {
namespace {

class Recomputation {
 public:
  explicit Recomputation(Planning& planning) : graph_(planning.graph), keep_every_(planning.keep_every) {}

  void run() {
    number_forward_nodes();
    if (keep_every_ <= 0) return;
    find_kept();
    if (last_kept_ < 0) return;
    graph_.substitute([](const NodeRef& node) { return node; },
                      [&](const Node& reader, const NodeRef& input) {
                        return is_backward(&reader) && is_forward(input.get()) ? again(input) : input;
                      });
  }

 private:
  bool is_backward(const Node* node) const { return node->gradient || later_.contains(node); }
  bool is_forward(const Node* node) const { return positions_.contains(node); }

  // Costs nothing to have again: data, views of data, numbers.
  static bool is_free(const Node* node) {
    while (is_movement(node->op) && !node->storage) node = node->inputs[0].get();
    return node->storage || node->op == Op::constant || node->op == Op::index || node->op == Op::uniform ||
           node->op == Op::normal;
  }

  // What depends on no gradient, in order; the order of steps uses the numbers as well.
  void number_forward_nodes() {
    for (const NodeRef& node : graph_.nodes()) {
      const bool later = node->gradient || std::ranges::any_of(node->inputs, [&](const NodeRef& input) {
                           return !input->storage && is_backward(input.get());
                         });
      if (later) {
        if (!node->gradient) later_.emplace(node.get(), true);
        node->position = -1;
        continue;
      }
      node->position = static_cast<int>(forward_.size());
      positions_.emplace(node.get(), node->position);
      forward_.push_back(node.get());
    }
  }

  void find_kept() {
    std::vector<int> last_reader(forward_.size(), -1);
    for (const Node* node : forward_)
      for (const NodeRef& input : node->inputs)
        if (const auto found = positions_.find(input.get()); found != positions_.end())
          last_reader[static_cast<size_t>(found->second)] = node->position;
    int cuts = 0;
    std::vector<int> live;  // positions still to be read, without what is free
    for (size_t i = 0; i < forward_.size(); ++i) {
      const int at = static_cast<int>(i);
      std::erase_if(live, [&](int value) { return last_reader[static_cast<size_t>(value)] <= at; });
      if (last_reader[i] > at && !is_free(forward_[i]) && forward_[i]->op != Op::call) live.push_back(at);
      if (live.size() != 1 || live[0] != at) continue;
      if (++cuts % keep_every_ != 0) continue;
      kept_.emplace(forward_[i], true);
      last_kept_ = at;
    }
  }

  // The value for a reader on the way back.
  NodeRef again(const NodeRef& node) {
    if (node->storage || is_free(node.get()) || kept_.contains(node.get())) return node;
    // What comes after the last value that is kept is read again at once.
    const auto position = positions_.find(node.get());
    if (position == positions_.end() || position->second > last_kept_) return node;
    if (const auto found = again_.find(node.get()); found != again_.end()) return found->second;
    std::vector<NodeRef> inputs;
    for (const NodeRef& input : node->inputs) inputs.push_back(again(input));
    NodeRef copy = clone_with_inputs(*node, std::move(inputs));
    copy->recomputed = true;
    graph_.add(copy);
    again_.emplace(node.get(), copy);
    return copy;
  }

  Graph& graph_;
  const int keep_every_;
  std::vector<Node*> forward_;
  std::unordered_map<const Node*, int> positions_;  // of the forward nodes
  std::unordered_map<const Node*, bool> later_;     // no gradients, but made from some
  std::unordered_map<const Node*, bool> kept_;
  std::unordered_map<const Node*, NodeRef> again_;
  int last_kept_ = -1;
};

}  // namespace

Status recompute_activations(Planning& planning) {
  Recomputation(planning).run();
  return {};
}

}  // namespace sporkle::tensor
