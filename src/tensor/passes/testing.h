// What the tests of the passes share.
#pragma once

#include <initializer_list>
#include <vector>

#include "tensor/passes/passes.h"
#include "tensor/testing.h"

namespace sporkle::tensor::testing {

// The graph that realize() would plan for these, none of which is a view.
inline Planning planning_of(std::initializer_list<Tensor> roots) {
  std::vector<NodeRef> nodes;
  for (const Tensor& root : roots) nodes.push_back(root.node());
  return Planning(Graph(roots.begin()->context(), nodes));
}

inline int count(const Planning& planning, Op op) {
  int found = 0;
  for (const NodeRef& node : planning.graph.nodes()) found += node->op == op;
  return found;
}

// A context that leaves one pass out, and one that leaves out all that may be.
inline Context& context_without(std::string_view pass, const std::string& device = "reference") {
  static std::map<std::string, std::unique_ptr<Context>> contexts;
  std::unique_ptr<Context>& slot = contexts[device + "/" + std::string(pass)];
  if (!slot) {
    ContextOptions options;
    for (const Pass& each : passes())
      if (each.optional && (pass == each.name || pass == "any")) options.skip_passes.emplace_back(each.name);
    auto opened = Context::open(device, {}, options);
    if (!opened.ok()) {
      ADD_FAILURE() << opened.status().to_string();
      std::abort();
    }
    slot = std::move(*opened);
  }
  return *slot;
}

}  // namespace sporkle::tensor::testing
