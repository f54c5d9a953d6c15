#include "codegen/llvm/analysis.h"

namespace sporkle::codegen::llvm {

using ir::Node;
using ir::Op;
using ir::RangeKind;

Analysis::Analysis(const ir::Kernel& kernel) : builder_(*kernel.context) {
  ir::visit_post_order(kernel.body, [&](const Node* node) {
    if (node->op == Op::store) mutable_.insert(node->src(0));
  });
}

const Node* Analysis::vector_range(const Node* node) {
  if (const auto found = vector_ranges_.find(node); found != vector_ranges_.end()) return found->second;
  const Node* result = nullptr;
  if (node->op == Op::range) {
    result = node->range_kind() == RangeKind::vector ? node : nullptr;
  } else if (node->op != Op::lane_reduce) {  // which gathers the lanes into one value
    for (const Node* source : node->src()) {
      const Node* range = vector_range(source);
      if (range && result && range != result && status_.ok())
        status_ = internal_error("an expression depends on two vector ranges at once");
      if (range) result = range;
    }
  }
  vector_ranges_.emplace(node, result);
  return result;
}

int Analysis::width(const Node* node) {
  const Node* range = vector_range(node);
  return range ? static_cast<int>(range->src(0)->value) : 1;
}

const std::unordered_set<const Node*>& Analysis::loaded_mutable(const Node* node) {
  if (const auto found = loaded_mutable_.find(node); found != loaded_mutable_.end()) return found->second;
  std::unordered_set<const Node*> result;
  for (const Node* source : node->src()) {
    const auto& below = loaded_mutable(source);
    result.insert(below.begin(), below.end());
  }
  if (node->op == Op::load && is_mutable(node->src(0))) result.insert(node->src(0));
  return loaded_mutable_.emplace(node, std::move(result)).first->second;
}

bool Analysis::reads(const Node* node, const Node* buffer) {
  const auto& loaded = loaded_mutable(node);
  return buffer ? loaded.contains(buffer) : !loaded.empty();
}

const Node* Analysis::lane_coefficient(const Node* index, const Node* lane) {
  if (vector_range(index) != lane) return builder_.integer(0);
  if (index == lane) return builder_.integer(1);
  ir::NodeMap& memo = coefficients_[lane];
  if (const auto found = memo.find(index); found != memo.end()) return found->second;
  const Node* result = nullptr;
  if (index->op == Op::add || index->op == Op::sub) {
    const Node* a = lane_coefficient(index->src(0), lane);
    const Node* b = lane_coefficient(index->src(1), lane);
    if (a && b) result = builder_.binary(index->op, a, b);
  } else if (index->op == Op::mul) {
    const Node *a = index->src(0), *b = index->src(1);
    if (vector_range(a) != lane) std::swap(a, b);
    if (const Node* c = vector_range(b) != lane ? lane_coefficient(a, lane) : nullptr) result = builder_.mul(c, b);
  }
  memo.emplace(index, result);
  return result;
}

const Node* Analysis::at_lane_zero(const Node* index, const Node* lane) {
  ir::NodeMap& memo = lane_zero_[lane];
  memo.emplace(lane, builder_.integer(0));
  return ir::rewrite(builder_, index, memo);
}

}  // namespace sporkle::codegen::llvm
