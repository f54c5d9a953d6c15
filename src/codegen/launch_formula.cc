#include "codegen/launch_formula.h"

#include <unordered_map>

#include "ir/arithmetic.h"
#include "ir/builder.h"
#include "ir/math.h"
#include "ir/text.h"
#include "ir/verifier.h"

namespace sporkle::codegen {
namespace {

using ir::Node;
using ir::Op;

constexpr char kName[] = "launch";
constexpr size_t kMaxSteps = 4096;

}  // namespace

Result<LaunchFormula> LaunchFormula::make(const ir::Kernel& kernel, const Node* iterations, const Node* scratch_bytes) {
  for (const Node* size : {iterations, scratch_bytes})
    if (size->type != ir::DType::i64)
      return invalid_argument("the launch sizes of kernel \"" + kernel.name + "\" are i64, not " +
                              std::string(ir::dtype_name(size->type)));
  ir::Kernel launch;
  launch.context = kernel.context;
  launch.name = kName;
  launch.scalars = kernel.scalars;
  launch.buffers = {{"sizes", ir::DType::i64, ir::Access::write}};
  ir::Builder b(*kernel.context);
  const Node* sizes = b.buffer(ir::DType::i64, 0, launch.buffers[0].name);
  const Node* stores[] = {b.store(sizes, b.integer(0), iterations), b.store(sizes, b.integer(1), scratch_bytes)};
  launch.body = b.block(stores);
  launch = ir::expand_math(launch);
  SPORKLE_RETURN_IF_ERROR(ir::verify(launch).with_context("the launch sizes of kernel \"" + kernel.name + "\""));
  return of_kernel(launch);
}

Result<LaunchFormula> LaunchFormula::parse(std::string_view text) {
  const Result<ir::Kernel> kernel = ir::parse(text);
  if (!kernel.ok()) return corrupt_data("launch sizes: " + kernel.status().message());
  const Result<LaunchFormula> formula = of_kernel(*kernel);
  if (!formula.ok()) return corrupt_data("launch sizes: " + formula.status().message());
  return formula;
}

Result<LaunchFormula> LaunchFormula::of_kernel(const ir::Kernel& kernel) {
  const auto is_store = [&](size_t i) {
    const Node* node = kernel.body->src(i);
    return node->op == Op::store && node->source_count == 3 && node->src(0)->op == Op::buffer &&
           node->src(1)->is_constant(static_cast<int64_t>(i)) && node->src(2)->type == ir::DType::i64;
  };
  if (kernel.name != kName || kernel.body->source_count != 2 || !is_store(0) || !is_store(1))
    return invalid_argument("not two stores of integers");
  LaunchFormula formula;
  formula.text_ = ir::print(kernel);
  formula.scalar_count_ = kernel.scalars.size();
  std::unordered_map<const Node*, uint32_t> numbers;
  const Node* unfit = nullptr;
  const Node* stored[] = {kernel.body->src(0)->src(2), kernel.body->src(1)->src(2)};
  for (const Node* root : stored) {
    ir::visit_post_order(root, [&](const Node* node) {
      if (numbers.contains(node)) return;
      const bool is_leaf = node->op == Op::constant || node->op == Op::scalar;
      const bool is_arithmetic = node->op >= Op::add && node->op <= Op::bitcast;
      if (!is_leaf && !is_arithmetic) {
        unfit = node;
        return;
      }
      Step step{node->op,
                node->type,
                node->source_count ? node->src(0)->type : node->type,
                {},
                static_cast<uint64_t>(node->value)};
      for (uint32_t i = 0; i < node->source_count; ++i) step.sources[i] = numbers[node->src(i)];
      numbers.emplace(node, static_cast<uint32_t>(formula.steps_.size()));
      formula.steps_.push_back(step);
    });
  }
  if (unfit)
    return invalid_argument("contain " + std::string(ir::op_name(unfit->op)) +
                            "; only scalars, constants and arithmetic have a value at a launch");
  if (formula.steps_.size() > kMaxSteps)
    return invalid_argument("have " + std::to_string(formula.steps_.size()) + " nodes; at most " +
                            std::to_string(kMaxSteps) + " are allowed");
  formula.iterations_ = numbers.at(stored[0]);
  formula.scratch_bytes_ = numbers.at(stored[1]);
  return formula;
}

LaunchSizes LaunchFormula::evaluate(std::span<const uint64_t> scalars) const {
  if (steps_.empty()) return {};
  std::vector<uint64_t> values(steps_.size());
  for (size_t i = 0; i < steps_.size(); ++i) {
    const Step& step = steps_[i];
    if (step.op == Op::constant) {
      values[i] = step.value;
    } else if (step.op == Op::scalar) {
      values[i] = ir::canonical_bits(step.type, scalars[step.value]);
    } else {
      const uint64_t v[] = {values[step.sources[0]], values[step.sources[1]], values[step.sources[2]]};
      values[i] = ir::apply(step.op, step.type, step.from, v);
    }
  }
  return {static_cast<int64_t>(values[iterations_]), static_cast<int64_t>(values[scratch_bytes_])};
}

}  // namespace sporkle::codegen
