// Running a graph: an earlier plan for one of its structure, or a new one; one submission.
#include <algorithm>
#include <chrono>
#include <cstdint>

#include "base/format_units.h"
#include "base/log.h"
#include "base/trace.h"
#include "tensor/context.h"
#include "tensor/passes/passes.h"
#include "tensor/plan_cache.h"
#include "tensor/tensor.h"

namespace sporkle::tensor {
namespace {

std::string bytes_text(size_t bytes) { return format_bytes(static_cast<double>(bytes)); }

Result<std::unique_ptr<Plan>> make_plan(Context& context, std::span<const NodeRef> wanted, const PlanInputs& inputs,
                                        int keep_every) {
  const auto start = std::chrono::steady_clock::now();
  const int64_t start_ns = trace::on() ? trace::now_ns() : 0;
  Planning planning(Graph(context, wanted));
  planning.inputs = &inputs;
  planning.keep_every = keep_every;
  SPORKLE_RETURN_IF_ERROR(run_passes(&planning));
  ++context.mutable_counters().plans;
  if (debug_level() >= 2) {
    const std::chrono::duration<double, std::milli> taken = std::chrono::steady_clock::now() - start;
    const PlanMemory& memory = planning.plan->memory;
    log(LogLevel::info, "plan",
        format_fixed(taken.count(), 3) + " ms for " + std::to_string(planning.steps.size()) + " steps, " +
            std::to_string(planning.plan->launches) + " launches; " + bytes_text(memory.arena_bytes) +
            " for intermediate values of " + bytes_text(memory.unplanned_bytes) + ", " +
            bytes_text(memory.result_bytes) + " for results");
  }
  if (trace::on())
    trace::event("plan", "plan", start_ns, trace::now_ns(), JsonObject().add("steps", planning.steps.size()));
  return std::move(planning.plan);
}

// The plan that computes the least twice of those that fit the memory cap.
Result<std::unique_ptr<Plan>> make_plan_under_cap(Context& context, std::span<const NodeRef> wanted,
                                                  const PlanInputs& inputs) {
  constexpr int kSparsest = 16;
  const size_t cap = context.memory_cap_bytes();
  size_t least = SIZE_MAX;
  for (int keep_every = 0; keep_every <= kSparsest; keep_every = std::max(1, 2 * keep_every)) {
    SPORKLE_ASSIGN_OR_RETURN(std::unique_ptr<Plan> plan, make_plan(context, wanted, inputs, keep_every));
    const size_t needed = context.in_use_bytes() + plan->memory.arena_bytes + plan->memory.result_bytes;
    if (cap == 0 || needed <= cap) return plan;
    least = std::min(least, needed);
  }
  return Status(Code::out_of_memory, "the memory cap is " + bytes_text(cap) + ", and this computation needs " +
                                         bytes_text(least) + " even where it computes activations again (" +
                                         bytes_text(context.in_use_bytes()) +
                                         " of it is data); raise the cap, or take a smaller batch or model");
}

// Computes `wanted` (no movements, no errors, without storage). When something fails none of them gets storage.
Status compute(Context& context, std::span<const NodeRef> wanted) {
  const auto start = std::chrono::steady_clock::now();
  GraphSignature& signature = context.signature();
  signature.read(context, wanted);
  std::shared_ptr<Plan> plan = context.plans().find(signature);
  if (!plan) {
    SPORKLE_ASSIGN_OR_RETURN(std::unique_ptr<Plan> made, make_plan_under_cap(context, wanted, signature.inputs));
    // The one that gives way may still be read by the device; a failure there shows when this one is run.
    if (context.plans().is_full()) (void)context.wait();
    plan = context.plans().insert(signature, std::move(made));
  }
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<std::shared_ptr<Storage>> values,
                           plan->run(context, signature.inputs, start));
  for (size_t i = 0; i < wanted.size(); ++i) wanted[i]->storage = values[i];
  return {};
}

// What is behind the movements that start at `node`.
NodeRef base_of(NodeRef node) {
  while (is_movement(node->op) && !node->storage) node = node->inputs[0];
  return node;
}

}  // namespace

Status realize(std::span<const Tensor> tensors) {
  Context* context = nullptr;
  for (const Tensor& tensor : tensors) {
    SPORKLE_RETURN_IF_ERROR(tensor.status());
    if (context && &tensor.context() != context)
      return invalid_argument("realize: the tensors belong to two contexts; realise those of each on their own");
    context = &tensor.context();
  }
  if (!context) return {};

  const uint64_t epoch = context->next_epoch();
  std::vector<NodeRef> roots;
  for (const Tensor& tensor : tensors) {
    NodeRef base = base_of(tensor.node());
    if (base->storage || base->epoch == epoch) continue;
    base->epoch = epoch;
    roots.push_back(std::move(base));
  }
  if (!roots.empty()) SPORKLE_RETURN_IF_ERROR(compute(*context, roots).with_context("realize"));

  // A detached tensor that has its value needs nothing else any more.
  for (const Tensor& tensor : tensors) {
    Node* node = tensor.node().get();
    if (node->op != Op::detach) continue;
    View view;
    node->storage = resolve(node, &view)->storage;
    node->op = Op::leaf;
    const std::vector<NodeRef> inputs = std::move(node->inputs);
    node->inputs.clear();
  }
  return {};
}

}  // namespace sporkle::tensor
