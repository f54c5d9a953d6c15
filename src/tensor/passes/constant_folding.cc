// Operations on constants, computed by the interpreter: what a kernel would have given, bit for bit.
#include <array>
#include <cstring>

#include "dsl/kernel.h"
#include "ir/interpreter.h"
#include "tensor/passes/passes.h"
#include "tensor/pointwise.h"

namespace sporkle::tensor {
namespace {

NodeRef constant_like(const Node& node, uint64_t bits, int run_time) {
  NodeRef constant = clone_with_inputs(node, {});
  constant->op = Op::constant;
  constant->dims = {};
  constant->number = bits;
  constant->run_time = run_time;
  return constant;
}

// The value of a pointwise operation on constants.
Result<uint64_t> compute(const Node& node) {
  const PointwiseRow& row = pointwise_row(node.op);
  const ir::Kernel kernel = dsl::trace("fold", [&](dsl::KernelBuilder& k) {
    const dsl::Buffer result = k.output(node.dtype, "result");
    std::array<dsl::Expr, 3> operands;
    for (size_t i = 0; i < node.inputs.size(); ++i)
      operands[i] = k.scalar(node.inputs[i]->dtype, "x" + std::to_string(i));
    result.store(0, row.compute(k, operands.data(), node.dtype));
  });
  std::vector<uint64_t> scalars;
  for (const NodeRef& input : node.inputs) scalars.push_back(input->number);
  std::array<std::byte, 8> bytes{};
  const ir::InterpreterBuffer buffer{bytes.data(), bytes.size()};
  SPORKLE_RETURN_IF_ERROR(ir::interpret(kernel, {&buffer, 1}, scalars));
  const auto read = [&]<typename T>(T value) {
    std::memcpy(&value, bytes.data(), sizeof value);
    return value;
  };
  switch (node.dtype) {
    case DType::f64:
      return read(uint64_t{});
    case DType::i32:
      return static_cast<uint64_t>(int64_t{read(int32_t{})});
    case DType::boolean:
      return uint64_t{read(uint8_t{})};
    default:
      return uint64_t{read(uint32_t{})};
  }
}

bool is_foldable(const Node& node) {
  if (node.inputs.empty()) return false;
  for (const NodeRef& input : node.inputs)
    if (input->op != Op::constant || input->storage) return false;
  if (is_movement(node.op)) return true;
  if (!is_pointwise(node.op) || node.op == Op::copy) return false;
  return node.dtype == DType::f32 || node.dtype == DType::f64 || node.dtype == DType::i32 ||
         node.dtype == DType::boolean;
}

}  // namespace

Status fold_constants(Planning& planning) {
  Status status;
  planning.graph.substitute([&](const NodeRef& node) {
    if (!status.ok() || !is_foldable(*node)) return node;
    if (is_movement(node->op)) return constant_like(*node, node->inputs[0]->number, node->inputs[0]->run_time);
    const Result<uint64_t> bits = compute(*node);
    if (bits.ok()) return constant_like(*node, *bits, -1);
    status = bits.status();
    return node;
  });
  return status;
}

}  // namespace sporkle::tensor
