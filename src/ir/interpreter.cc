#include "ir/interpreter.h"

#include "ir/interpreter_core.h"
#include "ir/verifier.h"

namespace sporkle::ir {

Status check_argument_counts(const Kernel& kernel, size_t buffers, size_t scalars) {
  const auto wrong_count = [&](const char* what, size_t wanted, size_t given) {
    return invalid_argument("kernel \"" + kernel.name + "\" takes " + std::to_string(wanted) + " " + what + ", " +
                            std::to_string(given) + " were given");
  };
  if (buffers != kernel.buffers.size()) return wrong_count("buffers", kernel.buffers.size(), buffers);
  if (scalars != kernel.scalars.size()) return wrong_count("scalars", kernel.scalars.size(), scalars);
  return {};
}

Status interpret(const Kernel& kernel, std::span<const InterpreterBuffer> buffers, std::span<const uint64_t> scalars) {
  SPORKLE_RETURN_IF_ERROR(verify(kernel));
  SPORKLE_RETURN_IF_ERROR(check_argument_counts(kernel, buffers.size(), scalars.size()));
  NoHooks hooks;
  return Interpreter(kernel, buffers, scalars, hooks).run();
}

namespace {

Result<uint64_t> evaluate_scalar(const Node* node, std::span<const uint64_t> scalars,
                                 std::unordered_map<const Node*, uint64_t>& memo) {
  if (node->is_constant()) return static_cast<uint64_t>(node->value);
  if (node->op == Op::scalar) {
    if (node->value < 0 || static_cast<uint64_t>(node->value) >= scalars.size())
      return invalid_argument("the expression uses scalar " + std::to_string(node->value) + ", " +
                              std::to_string(scalars.size()) + " were given");
    return canonical_bits(node->type, scalars[static_cast<size_t>(node->value)]);
  }
  if (node->op < Op::add || node->op > Op::rsqrt || node->source_count > 3)
    return invalid_argument("the expression contains " + std::string(op_name(node->op)) +
                            "; only scalars, constants and arithmetic have a value outside a kernel");
  if (const auto found = memo.find(node); found != memo.end()) return found->second;
  uint64_t v[3] = {};
  for (uint32_t i = 0; i < node->source_count; ++i) {
    SPORKLE_ASSIGN_OR_RETURN(v[i], evaluate_scalar(node->src(i), scalars, memo));
  }
  const uint64_t result = is_math(node->op) ? MathProgram::of(node->op, node->type)(v[0])
                                            : apply(node->op, node->type, node->src(0)->type, v);
  memo.emplace(node, result);
  return result;
}

}  // namespace

Result<int64_t> evaluate_integer(const Node* node, std::span<const uint64_t> scalars) {
  if (!is_integer(node->type))
    return invalid_argument("an integer expression is wanted, this one is " + std::string(dtype_name(node->type)));
  std::unordered_map<const Node*, uint64_t> memo;
  SPORKLE_ASSIGN_OR_RETURN(const uint64_t value, evaluate_scalar(node, scalars, memo));
  return static_cast<int64_t>(value);
}

}  // namespace sporkle::ir
