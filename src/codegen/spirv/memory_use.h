// Which memory a kernel stores to, and which values come from there. Answers are remembered; belongs to one emission.
#pragma once

#include <unordered_map>
#include <unordered_set>

#include "ir/kernel.h"

namespace sporkle::codegen::spirv {

class MemoryUse {
 public:
  explicit MemoryUse(const ir::Kernel& kernel);

  // Whether the kernel stores to this buffer or scratch.
  bool is_stored_to(const ir::Node* memory) const { return stored_to_.contains(memory); }
  // Whether the value comes from a load of `memory` (nullptr: of any memory that the kernel stores to).
  bool reads(const ir::Node* value, const ir::Node* memory);

 private:
  const std::unordered_set<const ir::Node*>& reads_of(const ir::Node* value);

  std::unordered_set<const ir::Node*> stored_to_;
  std::unordered_map<const ir::Node*, std::unordered_set<const ir::Node*>> reads_;
};

}  // namespace sporkle::codegen::spirv
