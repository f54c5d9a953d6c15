// The passes between a lazy graph and the launches that compute it, as one list (passes.cc). Internal.
//
// Every pass keeps every bit of every result (in `strict`; some change bits and run in `fast` alone). Each
// prints what it did under SPORKLE_DEBUG=2 and may be left out by name (ContextOptions::skip_passes), which tests do.
#pragma once

#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "tensor/fuse.h"
#include "tensor/passes/graph.h"
#include "tensor/plan.h"

namespace sporkle::tensor {

// What the passes hand on to each other.
struct Planning {
  explicit Planning(Graph wanted) : graph(std::move(wanted)) {}
  Graph graph;
  int keep_every = 0;                  // see recompute_activations; 0: nothing is computed again
  const PlanInputs* inputs = nullptr;  // of the graph; needed from recording on
  std::vector<Step> steps;             // from fusion on
  std::unique_ptr<Plan> plan;          // from recording on
};

struct Pass {
  std::string_view name;
  std::string_view effect;  // one line, for people
  bool optional;            // whether a plan can be made without it
  Status (*run)(Planning& planning);
};

std::span<const Pass> passes();

// Runs all of them in order.
Status run_passes(Planning* planning);

// ---- The passes; each in a file of its name ----

// Computes operations on constants now, where the kernels' own arithmetic can be done on the host.
Status fold_constants(Planning& planning);
// Rewrites that keep every bit: x * 1, x - 0, -(-x), x / 2^n, views of views ... algebra.cc lists them.
Status simplify_algebra(Planning& planning);
// Equal operations on equal operands become one.
Status merge_common_subexpressions(Planning& planning);
// In which order of their axes pointwise results lie in memory.
Status choose_layouts(Planning& planning);
// Where products compute in a smaller type. Changes bits: does nothing in `strict`.
Status choose_precision(Planning& planning);
// Long products of small matrices on a GPU's matrix units, in segments. Changes bits: does nothing in `strict`.
Status split_products(Planning& planning);
// Leaves out what no result needs any more.
Status drop_dead_code(Planning& planning);
// Under a memory cap: of the places where the way forward has a single value left to read, every keep_every-th is kept
// for the way back, and what lies between is computed again.
Status recompute_activations(Planning& planning);
// From nodes to steps: what runs together (fuse.h).
Status fuse_steps(Planning& planning);
// Runs steps in an order that needs less memory at once.
Status order_steps(Planning& planning);
// From steps to a plan: launches, and where everything that they write lies (memory_plan.h).
Status record_launches(Planning& planning);

}  // namespace sporkle::tensor
