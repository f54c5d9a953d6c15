#include "tune/gpu_search.h"

#include <algorithm>
#include <cmath>

#include "tune/beam.h"

namespace sporkle::tune {
namespace {

constexpr int64_t kSides[] = {16, 32, 64, 128, 256};
constexpr int64_t kDepths[] = {4, 8, 16, 32};
constexpr int64_t kOwn[] = {1, 2, 4, 8, 16};
constexpr int64_t kFewAcross = 16;  // rows or columns, up to which single elements may be the faster

double divide_up(int64_t a, int64_t b) { return std::ceil(static_cast<double>(a) / static_cast<double>(b)); }

}  // namespace

double expected_gpu_cycles(const GpuPlan& plan, const ProductShape& shape, const codegen::VulkanTarget& target) {
  const double depth = static_cast<double>(shape.depth), batches = static_cast<double>(shape.batches);
  const double cores = static_cast<double>(gpu_preset(target).enough_tiles);
  constexpr double kFromDevice = 8, kFromWorkgroup = 0.5;  // an element, in multiply-adds
  if (plan.by_element) {
    const double elements = batches * static_cast<double>(shape.rows) * static_cast<double>(shape.columns);
    return std::max(elements / (cores * 256), 1.0) * 256 * depth * (1 + 2 * kFromDevice / 4);
  }
  const GpuTile& t = plan.tile;
  const double lanes = static_cast<double>(t.invocations());
  const double tiles = batches * divide_up(shape.rows, t.rows) * divide_up(shape.columns, t.columns);
  const double own_rows = static_cast<double>(t.own_rows), own_columns = static_cast<double>(t.own_columns);
  // One step of k of one invocation.
  double step = own_rows * own_columns + kFromWorkgroup * (own_rows + own_columns) +
                kFromDevice * static_cast<double>(t.rows + t.columns) / lanes;
  step += 24.0 / static_cast<double>(t.depth);  // to wait for each other
  return std::ceil(tiles / cores) * lanes * depth * step;
}

std::vector<GpuPlan> gpu_neighbours(const GpuPlan& plan, const ProductShape& shape,
                                    const codegen::VulkanTarget& target) {
  std::vector<GpuPlan> result;
  const GpuPlan base = plan.by_element ? GpuPlan{false, {32, 32, 16, 2, 2}} : plan;
  const auto offer = [&](const auto& change) {
    GpuPlan other = base;
    change(other.tile);
    if (other != plan && gpu_plan_applies(other, shape, target)) result.push_back(other);
  };
  for (const int64_t side : kSides)
    for (const int64_t own : kOwn) {
      offer([&](GpuTile& t) { t.rows = side, t.own_rows = own; });
      offer([&](GpuTile& t) { t.columns = side, t.own_columns = own; });
    }
  for (const int64_t rows : kSides)
    for (const int64_t columns : kSides) offer([&](GpuTile& t) { t.rows = rows, t.columns = columns; });
  for (const int64_t rows : kOwn)
    for (const int64_t columns : kOwn) offer([&](GpuTile& t) { t.own_rows = rows, t.own_columns = columns; });
  for (const int64_t depth : kDepths) offer([&](GpuTile& t) { t.depth = depth; });
  if (!plan.by_element && std::min(shape.rows, shape.columns) <= kFewAcross) result.push_back({true, {}});
  return result;
}

Result<GpuSearchResult> search_gpu_plan(
    const ProductShape& shape, const codegen::VulkanTarget& target, const std::vector<GpuPlan>& start,
    const std::function<Result<double>(const GpuPlan&)>& measure, const SearchOptions& options,
    const std::function<void(double spent_seconds, const GpuPlan& best, double best_seconds)>& progress) {
  const PlanSpace<GpuPlan> space{
      preset_gpu_plan(shape, target), [&](const GpuPlan& plan) { return gpu_plan_applies(plan, shape, target); },
      [&](const GpuPlan& plan) { return gpu_neighbours(plan, shape, target); },
      [&](const GpuPlan& plan) { return expected_gpu_cycles(plan, shape, target); }, measure};
  SPORKLE_ASSIGN_OR_RETURN(const BeamResult<GpuPlan> found, search_beam<GpuPlan>(space, start, options, progress));
  return GpuSearchResult{{found.best, found.seconds, found.usual_seconds}, found.measured, found.exhausted};
}

}  // namespace sporkle::tune
