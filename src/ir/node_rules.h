// The verifier's checks of single nodes: how many sources, of which types, with which attributes. Internal to ir.
#pragma once

#include <string>
#include <unordered_set>

#include "base/status.h"
#include "ir/kernel.h"

namespace sporkle::ir {

inline constexpr size_t kMaxNameBytes = 256;

// "add", "range \"i\"", "load of buffer \"x\"": how messages call a node.
std::string describe(const Node* node);

// Checks one node after another; sources must come before what uses them. One thread; holds references to the kernel.
class NodeRules {
 public:
  explicit NodeRules(const Kernel& kernel) : kernel_(kernel) {}
  Status check(const Node* node);

 private:
  Status check_sources(const Node* node) const;
  Status check_constant(const Node* node) const;
  Status check_argument(const Node* node) const;
  Status check_scratch(const Node* node) const;
  Status check_range(const Node* node) const;
  Status check_dot(const Node* node) const;
  Status check_select(const Node* node) const;
  Status check_bitcast(const Node* node) const;
  Status check_access(const Node* node) const;
  Status check_reduce(const Node* node) const;
  Status check_lane_reduce(const Node* node) const;
  Status check_loop(const Node* node) const;

  const Kernel& kernel_;
  // The values made of scalars and constants alone: known when a kernel is launched.
  std::unordered_set<const Node*> known_at_launch_;
};

}  // namespace sporkle::ir
