#include "tensor/passes/passes.h"

#include <algorithm>
#include <chrono>

#include "base/format_units.h"
#include "base/log.h"
#include "tensor/context.h"

namespace sporkle::tensor {
namespace {

constexpr Pass kPasses[] = {
    {"constant_folding", "operations on constants are computed now", true, fold_constants},
    {"algebra", "identities that keep every bit", true, simplify_algebra},
    {"common_subexpressions", "equal operations become one", true, merge_common_subexpressions},
    {"layout", "pointwise results lie as what they are made from", true, choose_layouts},
    {"mixed_precision", "products in a smaller type, in `fast` alone", true, choose_precision},
    {"split_products", "long products on a GPU's matrix units, in segments, in `fast` alone", true, split_products},
    {"dead_code", "what no result needs is left out", true, drop_dead_code},
    {"recomputation", "under a memory cap, activations are computed again", false, recompute_activations},
    {"fusion", "what runs together in one kernel", false, fuse_steps},
    {"step_order", "what sets memory free runs first", true, order_steps},
    {"memory", "launches are recorded, and intermediate values share memory by lifetime", false, record_launches},
};

}  // namespace

std::span<const Pass> passes() { return kPasses; }

Status run_passes(Planning* planning) {
  const std::vector<std::string>& skipped = planning->graph.context().options().skip_passes;
  for (const Pass& pass : kPasses) {
    if (pass.optional && std::ranges::find(skipped, pass.name) != skipped.end()) continue;
    const size_t nodes = planning->graph.nodes().size();
    const auto start = std::chrono::steady_clock::now();
    SPORKLE_RETURN_IF_ERROR(pass.run(*planning));
    if (debug_level() < 2) continue;
    const std::chrono::duration<double, std::milli> taken = std::chrono::steady_clock::now() - start;
    log(LogLevel::info, "pass",
        std::string(pass.name) + ": " + std::to_string(nodes) + " -> " +
            std::to_string(planning->graph.nodes().size()) + " nodes, " + std::to_string(planning->steps.size()) +
            " steps, " + format_fixed(taken.count(), 3) + " ms");
  }
  return {};
}

Status drop_dead_code(Planning& planning) {
  planning.graph.drop_unread();
  return {};
}

Status fuse_steps(Planning& planning) {
  SPORKLE_ASSIGN_OR_RETURN(planning.steps, fuse(planning.graph));
  return {};
}

}  // namespace sporkle::tensor
