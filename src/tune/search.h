// The search for a product's fastest plan: a beam over changes of one number at a time, measured, in the order in which
// an analytic model expects them to do well.
//
// Every candidate gives the same bits (tune/product_plan.h), so the search needs no check of results. Not thread-safe;
// the measurements are the caller's.
#pragma once

#include <functional>
#include <vector>

#include "tune/database.h"

namespace sporkle::tune {

struct SearchOptions {
  double budget_seconds = 10;
  int beam = 3;         // plans whose changes are tried next
  int candidates = 12;  // measured in one round, those that the model expects the most of
  // Called after every measurement with the seconds spent so far.
  std::function<void(double spent_seconds, const ProductPlan& best, double best_seconds)> progress;
  std::function<double()> now_seconds;  // a steady clock where empty
};

struct SearchResult {
  TunedProduct best;
  int measured = 0;        // plans
  bool exhausted = false;  // no change of the best ones was left, before the budget was spent
};

// Seconds of one product under a plan: the smallest of a few.
using MeasurePlan = std::function<Result<double>(const ProductPlan&)>;

// Cycles that the model expects, of the loads, the arithmetic, the copies and the idle threads; comparable for one
// shape alone.
double expected_cycles(const ProductPlan& plan, const ProductShape& shape, const Processor& processor);

// The plans that differ from `plan` in one number and apply.
std::vector<ProductPlan> neighbours(const ProductPlan& plan, const ProductShape& shape, const Processor& processor);

// Starts from `start` and the preset. A plan counts as better than the preset only by 1 % or more; `best` is the
// preset's otherwise. Fails where the preset's measurement does; other plans whose measurement fails are passed over.
Result<SearchResult> search_plan(const ProductShape& shape, const Processor& processor,
                                 const std::vector<ProductPlan>& start, const MeasurePlan& measure,
                                 const SearchOptions& options = {});

}  // namespace sporkle::tune
