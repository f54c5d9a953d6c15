// Plans by the structure of their graphs, so that a graph like an earlier one is not planned again.
//
// Two graphs have the same structure when they differ in nothing but where data lies, the values of constants that no
// pass looks at, random keys, and the scalars of kernel calls. Internal; belongs to its Context's thread.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tensor/plan.h"

namespace sporkle::tensor {

// The structure of the graph behind some roots, as words, with what a plan for it takes anew at every run.
struct GraphSignature {
  std::vector<uint64_t> words;
  PlanInputs inputs;

  // Writes into a signature whose memory is used again. Numbers the graph's run-time numbers (Node::run_time).
  void read(Context& context, std::span<const NodeRef> roots);

 private:
  struct Frame {
    Node* node;
    size_t next;
  };
  struct Number {
    uint64_t bits;
    uint8_t kind;
    friend bool operator==(const Number&, const Number&) = default;
  };
  struct NumberHash {
    size_t operator()(const Number& n) const { return static_cast<size_t>(n.bits * 0x9E3779B97F4A7C15u + n.kind); }
  };

  void append(const Dims& dims);
  void append(std::string_view text);
  void append_leaf(Node& node, uint64_t epoch);
  void append_node(Node& node, int index);
  int number(uint64_t bits, uint8_t kind);
  int call_scalars(const KernelCall& call);

  std::vector<Frame> stack_;
  std::vector<bool> folds_;  // of each node: whether it is made of constants alone
  std::unordered_map<Number, int, NumberHash> numbers_;
  std::unordered_multimap<uint64_t, int> calls_;
};

class PlanCache {
 public:
  // The plan for a graph of this structure, or null.
  std::shared_ptr<Plan> find(const GraphSignature& signature);
  // Keeps a plan; the least recently used one goes. The device must be done with that.
  std::shared_ptr<Plan> insert(const GraphSignature& signature, std::shared_ptr<Plan> plan);
  bool is_full() const { return entries_.size() >= kMost; }
  void forget_buffers();

 private:
  static constexpr size_t kMost = 128;
  struct Entry {
    uint64_t hash;
    std::vector<uint64_t> words;
    std::shared_ptr<Plan> plan;
  };
  std::list<Entry> entries_;  // the most recently used first
  std::unordered_multimap<uint64_t, std::list<Entry>::iterator> by_hash_;
};

}  // namespace sporkle::tensor
