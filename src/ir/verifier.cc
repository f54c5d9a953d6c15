#include "ir/verifier.h"

#include <unordered_map>

#include "ir/node_rules.h"
#include "ir/scope_rules.h"
#include "ir/verifier_messages.h"

namespace sporkle::ir {
namespace {

// Limits that no sensible kernel reaches: they keep recursive passes within their stack and tables small.
constexpr size_t kMaxNodes = size_t{1} << 17;
constexpr int kMaxDepth = 2048;
constexpr size_t kMaxArguments = 1024;

Status check_declarations(const Kernel& kernel) {
  if (!kernel.context) return broken(Broken::no_context);
  if (!kernel.body || kernel.body->op != Op::block) return broken(Broken::no_block);
  if (kernel.buffers.size() > kMaxArguments || kernel.scalars.size() > kMaxArguments)
    return broken(Broken::many_arguments, {std::to_string(kMaxArguments)});
  const auto check = [](std::string_view name, DType type) -> Status {
    if (name.size() > kMaxNameBytes) return broken(Broken::long_name, {std::to_string(kMaxNameBytes)});
    if (type == DType::none) return broken(Broken::untyped_argument, {std::string(name)});
    return {};
  };
  SPORKLE_RETURN_IF_ERROR(check(kernel.name, DType::f32));
  for (const BufferArgument& buffer : kernel.buffers) SPORKLE_RETURN_IF_ERROR(check(buffer.name, buffer.type));
  for (const ScalarArgument& scalar : kernel.scalars) SPORKLE_RETURN_IF_ERROR(check(scalar.name, scalar.type));
  return {};
}

// All nodes, sources before what uses them. A stack of its own instead of recursion: how deep the nodes nest is known
// only at the end.
Status collect_nodes(const Node* root, std::vector<const Node*>& nodes) {
  struct Visit {
    const Node* node;
    uint32_t next_source;
  };
  std::unordered_map<const Node*, int> depth{{root, 0}};
  std::vector<Visit> stack{{root, 0}};
  while (!stack.empty()) {
    Visit& visit = stack.back();
    const Node* node = visit.node;
    if (visit.next_source < node->source_count) {
      const Node* source = node->src(visit.next_source++);
      if (!depth.emplace(source, 0).second) continue;
      if (depth.size() > kMaxNodes) return broken(Broken::many_nodes, {std::to_string(kMaxNodes)});
      stack.push_back({source, 0});
      continue;
    }
    int below = 0;
    for (const Node* source : node->src()) below = std::max(below, depth.at(source));
    if (below >= kMaxDepth) return broken(Broken::deep_nodes, {describe(node), std::to_string(kMaxDepth)});
    depth[node] = below + 1;
    nodes.push_back(node);
    stack.pop_back();
  }
  return {};
}

Status verify_parts(const Kernel& kernel) {
  SPORKLE_RETURN_IF_ERROR(check_declarations(kernel));
  std::vector<const Node*> nodes;
  SPORKLE_RETURN_IF_ERROR(collect_nodes(kernel.body, nodes));
  NodeRules rules(kernel);
  for (const Node* node : nodes) SPORKLE_RETURN_IF_ERROR(rules.check(node));
  return check_scopes(kernel, nodes);
}

}  // namespace

Status verify(const Kernel& kernel) { return verify_parts(kernel).with_context("kernel \"" + kernel.name + "\""); }

}  // namespace sporkle::ir
