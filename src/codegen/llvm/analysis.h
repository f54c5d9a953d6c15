// What the emitter asks about nodes before it emits them. Answers are remembered; belongs to one emission.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <unordered_set>

#include "base/status.h"
#include "ir/builder.h"

namespace sporkle::codegen::llvm {

class Analysis {
 public:
  explicit Analysis(const ir::Kernel& kernel);

  // The vector range that the value differs over, or nullptr for a scalar value. Two of them are an error (status()).
  const ir::Node* vector_range(const ir::Node* node);
  // Lanes of the value: the extent of its vector range, or 1.
  int width(const ir::Node* node);

  // Whether the kernel stores to this buffer or scratch.
  bool is_mutable(const ir::Node* buffer) const { return mutable_.contains(buffer); }
  // Whether the value comes from a load of `buffer` (nullptr: of any buffer that the kernel stores to).
  bool reads(const ir::Node* node, const ir::Node* buffer);

  // index = base + coefficient * lane: the coefficient, or nullptr when the index is not of that form.
  const ir::Node* lane_coefficient(const ir::Node* index, const ir::Node* lane);
  // The index at lane 0.
  const ir::Node* at_lane_zero(const ir::Node* index, const ir::Node* lane);

  const Status& status() const { return status_; }

 private:
  const std::unordered_set<const ir::Node*>& loaded_mutable(const ir::Node* node);

  ir::Builder builder_;
  std::unordered_set<const ir::Node*> mutable_;
  std::unordered_map<const ir::Node*, const ir::Node*> vector_ranges_;
  std::unordered_map<const ir::Node*, std::unordered_set<const ir::Node*>> loaded_mutable_;
  std::unordered_map<const ir::Node*, ir::NodeMap> coefficients_, lane_zero_;  // by lane
  Status status_;
};

}  // namespace sporkle::codegen::llvm
