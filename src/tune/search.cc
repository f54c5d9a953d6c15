#include "tune/search.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "tune/beam.h"

namespace sporkle::tune {
namespace {

constexpr int kRows[] = {1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14};
constexpr int kVectors[] = {1, 2, 3, 4, 5, 6, 8};
constexpr int kUnrolls[] = {1, 2, 4, 8};
constexpr int64_t kPackedDepths[] = {256, 512, 768, 1024, 1536, 2048, 4096};
constexpr int64_t kSlabDepths[] = {4, 8, 16, 32, 64};

double divide_up(int64_t a, int64_t b) { return std::ceil(static_cast<double>(a) / static_cast<double>(b)); }

}  // namespace

double expected_cycles(const ProductPlan& plan, const ProductShape& shape, const Processor& processor) {
  const int lanes = std::max(processor.vector_bytes / shape.element_bytes, 1);
  const double rows = static_cast<double>(shape.rows), depth = static_cast<double>(shape.depth);
  const double vectors = divide_up(shape.columns, lanes), batches = static_cast<double>(shape.batches);
  const double tiles = divide_up(shape.rows, plan.rows) * std::ceil(vectors / plan.vectors);
  // For each step of k a tile loads its vectors of B and broadcasts its rows of A; too few chains wait for each other.
  const double chains = plan.rows * plan.vectors, loads = plan.vectors + 1.5 * plan.rows;
  const double step = std::max({chains, loads, 4.0}) + 1.0 / plan.unroll;
  double cycles = batches * tiles * depth * step;
  const double passes = plan.kind == ProductPlan::Kind::in_place ? 1 : divide_up(shape.depth, plan.depth);
  cycles += batches * passes * rows * vectors * 2;  // C is read and written
  const double row_blocks = plan.block_rows > 0 ? divide_up(shape.rows, plan.block_rows) : 1;
  if (plan.kind == ProductPlan::Kind::packed) {
    cycles += batches * row_blocks * depth * vectors * (shape.b_in_rows ? 3 : 40);
    const double panel =
        static_cast<double>(std::min(plan.depth, shape.depth)) * plan.vectors * lanes * shape.element_bytes;
    if (panel > 512.0 * 1024) cycles *= 1.1;  // it leaves the second cache
  }
  const double column_blocks = plan.kind != ProductPlan::Kind::slabs ? std::ceil(vectors / plan.vectors)
                               : plan.block_columns > 0              ? divide_up(shape.columns, plan.block_columns)
                                                                     : 1;
  const double turns = batches * row_blocks * column_blocks, threads = processor.threads;
  return cycles / turns * std::ceil(turns / threads);
}

std::vector<ProductPlan> neighbours(const ProductPlan& plan, const ProductShape& shape, const Processor& processor) {
  std::vector<ProductPlan> result;
  const auto offer = [&](const auto& change) {
    ProductPlan other = plan;
    change(other);
    if (other != plan && plan_applies(other, shape, processor)) result.push_back(other);
  };
  for (const int rows : kRows) offer([&](ProductPlan& p) { p.rows = rows; });
  for (const int vectors : kVectors) offer([&](ProductPlan& p) { p.vectors = vectors; });
  for (const int rows : kRows)
    for (const int vectors : kVectors)
      offer([&](ProductPlan& p) {
        p.rows = rows;
        p.vectors = vectors;
      });
  for (const int unroll : kUnrolls) offer([&](ProductPlan& p) { p.unroll = unroll; });
  const bool slabs = plan.kind == ProductPlan::Kind::slabs;
  const std::span<const int64_t> depths = slabs ? std::span<const int64_t>(kSlabDepths) : kPackedDepths;
  if (plan.kind != ProductPlan::Kind::in_place)
    for (const int64_t depth : depths) offer([&](ProductPlan& p) { p.depth = depth; });
  for (const int64_t parts : {1, 2, 4, 8, 16}) {
    const int64_t rows = (shape.rows + parts - 1) / parts, columns = (shape.columns + parts - 1) / parts;
    offer([&](ProductPlan& p) { p.block_rows = parts == 1 ? 0 : (rows + p.rows - 1) / p.rows * p.rows; });
    if (slabs) offer([&](ProductPlan& p) { p.block_columns = parts == 1 ? 0 : (columns + 63) / 64 * 64; });
  }
  if (!shape.one_column()) {
    offer([&](ProductPlan& p) {
      p.kind = ProductPlan::Kind::packed;
      p.depth = 1024;
    });
    offer([&](ProductPlan& p) {
      p.kind = ProductPlan::Kind::slabs;
      p.depth = 16;
      p.block_columns = 0;
    });
  }
  return result;
}

Result<SearchResult> search_plan(const ProductShape& shape, const Processor& processor,
                                 const std::vector<ProductPlan>& start, const MeasurePlan& measure,
                                 const SearchOptions& options) {
  const PlanSpace<ProductPlan> space{
      preset_plan(shape, processor), [&](const ProductPlan& plan) { return plan_applies(plan, shape, processor); },
      [&](const ProductPlan& plan) { return neighbours(plan, shape, processor); },
      [&](const ProductPlan& plan) { return expected_cycles(plan, shape, processor); }, measure};
  SPORKLE_ASSIGN_OR_RETURN(const BeamResult<ProductPlan> found,
                           search_beam<ProductPlan>(space, start, options, options.progress));
  return SearchResult{{found.best, found.seconds, found.usual_seconds}, found.measured, found.exhausted};
}

}  // namespace sporkle::tune
