// The search for the fastest plan of a product on a GPU: as of a processor (tune/search.h), over tiles. Every candidate
// gives the same bits. Not thread-safe; the measurements are the caller's.
#pragma once

#include <functional>
#include <vector>

#include "tune/database.h"
#include "tune/search.h"

namespace sporkle::tune {

struct GpuSearchResult {
  TunedGpuProduct best;
  int measured = 0;        // plans
  bool exhausted = false;  // no change of the best ones was left, before the budget was spent
};

// What the model expects of arithmetic, of what is read from a workgroup's memory and from the device's, and of idle
// cores; comparable for one shape on one device alone.
double expected_gpu_cycles(const GpuPlan& plan, const ProductShape& shape, const codegen::VulkanTarget& target);

// The plans that differ from `plan` in one side of its tile and apply.
std::vector<GpuPlan> gpu_neighbours(const GpuPlan& plan, const ProductShape& shape,
                                    const codegen::VulkanTarget& target);

// As search_plan. `options.progress` is of no account; `progress` is called instead.
Result<GpuSearchResult> search_gpu_plan(
    const ProductShape& shape, const codegen::VulkanTarget& target, const std::vector<GpuPlan>& start,
    const std::function<Result<double>(const GpuPlan&)>& measure, const SearchOptions& options = {},
    const std::function<void(double spent_seconds, const GpuPlan& best, double best_seconds)>& progress = {});

}  // namespace sporkle::tune
