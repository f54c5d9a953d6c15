// Equal operations on equal operands give equal bits: one of them is enough. Random numbers are functions of their key,
// kernel calls of their key, schedule, scalars and inputs, so they take part. Numbers that a plan takes anew at every
// run are equal when they have one place among them (Node::run_time).
#include <string>
#include <unordered_map>

#include "tensor/kernel_call.h"
#include "tensor/passes/passes.h"

namespace sporkle::tensor {
namespace {

void append(std::string* text, uint64_t number) { text->append(reinterpret_cast<const char*>(&number), sizeof number); }

void append(std::string* text, const Dims& dims) {
  append(text, static_cast<uint64_t>(dims.rank()));
  for (const int64_t extent : dims) append(text, static_cast<uint64_t>(extent));
}

// What the value of a node depends on.
std::string identity(const Node& node) {
  std::string text;
  append(&text, static_cast<uint64_t>(node.op) | static_cast<uint64_t>(node.dtype) << 8);
  append(&text, node.number);
  append(&text, static_cast<uint64_t>(static_cast<int64_t>(node.run_time)));
  append(&text, node.shape);
  append(&text, node.dims);
  for (const NodeRef& input : node.inputs) append(&text, reinterpret_cast<uintptr_t>(input.get()));
  if (node.call) {
    for (const TensorSpec& result : node.call->results) {
      append(&text, static_cast<uint64_t>(result.dtype));
      append(&text, result.shape);
    }
    if (node.run_time < 0)
      for (const uint64_t scalar : node.call->scalars) append(&text, scalar);
    text += node.call->key + '\n' + node.call->schedule;
  }
  return text;
}

}  // namespace

Status merge_common_subexpressions(Planning& planning) {
  std::unordered_map<std::string, NodeRef> seen;
  planning.graph.substitute([&](const NodeRef& node) { return seen.try_emplace(identity(*node), node).first->second; });
  return {};
}

}  // namespace sporkle::tensor
