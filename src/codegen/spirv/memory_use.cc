#include "codegen/spirv/memory_use.h"

#include "ir/builder.h"

namespace sporkle::codegen::spirv {

using ir::Node;
using ir::Op;

MemoryUse::MemoryUse(const ir::Kernel& kernel) {
  ir::visit_post_order(kernel.body, [&](const Node* node) {
    if (node->op == Op::store) stored_to_.insert(node->src(0));
  });
}

const std::unordered_set<const Node*>& MemoryUse::reads_of(const Node* value) {
  if (const auto found = reads_.find(value); found != reads_.end()) return found->second;
  std::unordered_set<const Node*> result;
  for (const Node* source : value->src()) {
    const auto& below = reads_of(source);
    result.insert(below.begin(), below.end());
  }
  if (value->op == Op::load && is_stored_to(value->src(0))) result.insert(value->src(0));
  return reads_.emplace(value, std::move(result)).first->second;
}

bool MemoryUse::reads(const Node* value, const Node* memory) {
  const auto& read = reads_of(value);
  return memory ? read.contains(memory) : !read.empty();
}

}  // namespace sporkle::codegen::spirv
