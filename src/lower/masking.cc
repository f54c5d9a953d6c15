#include "lower/masking.h"

namespace sporkle::lower {
namespace {

using ir::Node;
using ir::Op;

class Masking {
 public:
  Masking(ir::Builder& builder, const Node* lane, const Node* condition)
      : builder_(builder), lane_(lane), condition_(condition) {}

  const Node* apply(const Node* root) {
    return ir::rewrite(builder_, root, memo_, [this](ir::Builder& b, const Node* node) -> const Node* {
      if (node->op == Op::store) {
        const Node* mask = node->source_count > 3 ? b.binary(Op::bit_and, node->src(3), condition_) : condition_;
        return b.store(node->src(0), node->src(1), node->src(2), mask);
      }
      if (node->op == Op::load && depends(node->src(1))) {
        if (node->source_count > 2)
          return b.load(node->src(0), node->src(1), b.binary(Op::bit_and, node->src(2), condition_), node->src(3));
        return b.load(node->src(0), node->src(1), condition_, b.bits(node->type, 0));
      }
      return nullptr;
    });
  }

 private:
  bool depends(const Node* node) {
    if (node == lane_) return true;
    if (const auto found = depends_.find(node); found != depends_.end()) return found->second;
    bool result = false;
    for (const Node* source : node->src()) result |= depends(source);
    depends_.emplace(node, result);
    return result;
  }

  ir::Builder& builder_;
  const Node* lane_;
  const Node* condition_;
  ir::NodeMap memo_;
  std::unordered_map<const Node*, bool> depends_;
};

}  // namespace

const Node* with_mask(ir::Builder& builder, const Node* root, const Node* lane, const Node* condition) {
  return Masking(builder, lane, condition).apply(root);
}

}  // namespace sporkle::lower
