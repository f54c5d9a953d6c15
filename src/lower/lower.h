// Lowering: from a kernel as it was written to one that a code generator can emit node by node.
//
// The passes, in order: expand_math (ir/math.h), apply_schedule, expand_lanes. Each gives ordinary IR that the
// interpreter runs with the same result, bit for bit; in debug builds the verifier checks it, and SPORKLE_DEBUG=4
// prints it.
#pragma once

#include <functional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>

#include "base/status.h"
#include "ir/kernel.h"
#include "lower/schedule.h"

namespace sporkle::lower {

struct Lowered {
  ir::Kernel kernel;
  // Ranges of reductions whose loop body a code generator should repeat this often.
  std::unordered_map<const ir::Node*, int> unroll;
  // Names of the ranges whose vectors, where they are stored whole, should pass the caches.
  std::set<std::string, std::less<>> streamed;
};

// `kernel` is left as it is: the result has a Context of its own. invalid_argument when the schedule names a range that
// the kernel lacks or asks for what the kernel's shape does not allow (nested vectors, a thread loop inside another).
// `seen` is called with the name and the result of every pass.
using PassSink = std::function<void(std::string_view pass, const ir::Kernel& kernel)>;
Result<Lowered> lower(const ir::Kernel& kernel, const Schedule& schedule, const PassSink& seen = {});

// For GPUs, where an invocation runs one iteration of the thread loop: expand_math, expand_dot, share_iterations,
// map_to_invocations. `schedule` must name ranges that the kernel has; of its items only group and pack
// change anything here.
Result<ir::Kernel> lower_for_gpu(const ir::Kernel& kernel, const Schedule& schedule, const PassSink& seen = {});

// A copy with a Context of its own, so that passes may add nodes without touching the caller's.
ir::Kernel clone(const ir::Kernel& kernel);

// ---- The passes, for their tests ----

// invalid_argument naming the range that the kernel lacks, or the loop that is to be unrolled.
Status check_ranges(const ir::Kernel& kernel, const Schedule& schedule);
// Loops run as the schedule says: split into thread blocks, tiles and vectors with their remainders.
Result<Lowered> apply_schedule(const ir::Kernel& kernel, const Schedule& schedule);
// Reductions over L lanes become one vector accumulator (or, where the reduction already runs inside a vector, L of
// them) and a lane_reduce.
ir::Kernel expand_lanes(const ir::Kernel& kernel);
// Dot products of packed numbers become multiplications and additions of single ones.
ir::Kernel expand_dot(const ir::Kernel& kernel);
// Where the schedule has a group item for the outermost loop, each of its iterations becomes work for a workgroup:
// every reduction over L lanes a loop over L invocations, which leave their partial results in scratch memory, and
// every loop inside one over all invocations. A kernel with scratch memory or vectors of its own, or one that reduces
// what it stores, stays as it is.
ir::Kernel share_iterations(const ir::Kernel& kernel, const Schedule& schedule);
// Many small iterations: the outermost loop becomes the thread loop, joined with the loops that are all of its body
// where their extents are known at launch and it has no loop over invocations. Vector ranges become ordinary ones and
// lane_reduce its tree. The stores of a loop that the schedule packs are one statement, all iterations'.
ir::Kernel map_to_invocations(const ir::Kernel& kernel, const Schedule& schedule);

}  // namespace sporkle::lower
