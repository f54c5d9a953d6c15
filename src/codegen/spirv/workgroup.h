// How a kernel with loops over the invocations of a workgroup runs: where its scratch memory lies and where the
// invocations must wait for each other. Answers belong to one emission.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <unordered_set>

#include "ir/kernel.h"

namespace sporkle::codegen::spirv {

class Workgroup {
 public:
  // `shared_bytes`: how much workgroup memory there is.
  Workgroup(const ir::Kernel& kernel, uint32_t shared_bytes);

  // Whether the kernel has a loop over invocations at all.
  bool is_used() const { return invocations_ > 0; }
  uint32_t invocations() const { return invocations_; }

  enum class Place {
    registers,  // each invocation has its own, at constant indices
    shared,     // workgroup memory
    device,     // device memory
  };
  Place place(const ir::Node* scratch) const;
  // The index of an invocation's own element, of scratch in registers, from the index in the IR.
  int64_t register_index(const ir::Node* index) const;
  uint32_t shared_bytes() const { return used_shared_bytes_; }

  // Whether the loop is one over invocations, or has one inside: then all invocations take part in it.
  bool is_collective(const ir::Node* statement) const { return collective_.contains(statement); }

  // What the statement reads and stores that other invocations can see.
  struct Traffic {
    std::unordered_set<const ir::Node*> reads, stores;
    bool conflicts_with(const Traffic& earlier) const;
    void add(const Traffic& other);
  };
  const Traffic& traffic(const ir::Node* statement);

 private:
  std::optional<int64_t> own_element(const ir::Node* index) const;
  void find_collective(const ir::Node* statement);

  uint32_t invocations_ = 0, used_shared_bytes_ = 0;
  std::unordered_map<const ir::Node*, Place> places_;
  std::unordered_set<const ir::Node*> collective_;
  std::unordered_map<const ir::Node*, Traffic> traffic_;
};

}  // namespace sporkle::codegen::spirv
