// The beam search that tuning uses for every kind of plan. Internal.
#pragma once

#include <algorithm>
#include <chrono>
#include <functional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "tune/search.h"

namespace sporkle::tune {

// What a search needs to know of a kind of plan, which has text() and ==.
template <typename Plan>
struct PlanSpace {
  Plan usual;  // the preset's
  std::function<bool(const Plan&)> applies;
  std::function<std::vector<Plan>(const Plan&)> neighbours;  // that differ in one number and apply
  std::function<double(const Plan&)> expected_cycles;        // what the model expects
  std::function<Result<double>(const Plan&)> measure;        // seconds
};

template <typename Plan>
struct BeamResult {
  Plan best;
  double seconds = 0, usual_seconds = 0;
  int measured = 0;
  bool exhausted = false;
};

template <typename Plan>
Result<BeamResult<Plan>> search_beam(
    const PlanSpace<Plan>& space, const std::vector<Plan>& start, const SearchOptions& options,
    const std::function<void(double spent_seconds, const Plan& best, double best_seconds)>& progress) {
  constexpr double kLeastGain = 0.01;
  struct Measured {
    Plan plan;
    double seconds;
  };
  const std::function<double()> now = options.now_seconds ? options.now_seconds : [] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  };
  const double began = now();
  std::set<std::string> tried;
  std::vector<Measured> beam;
  BeamResult<Plan> result;
  const auto spent = [&] { return now() - began; };
  const auto try_plan = [&](const Plan& plan) -> Status {
    if (!tried.insert(plan.text()).second) return {};
    SPORKLE_ASSIGN_OR_RETURN(const double seconds, space.measure(plan));
    ++result.measured;
    beam.push_back({plan, seconds});
    std::ranges::stable_sort(beam, {}, &Measured::seconds);
    if (progress) progress(spent(), beam[0].plan, beam[0].seconds);
    return {};
  };
  SPORKLE_RETURN_IF_ERROR(try_plan(space.usual));
  result.usual_seconds = beam[0].seconds;
  for (const Plan& plan : start)
    if (space.applies(plan) && spent() < options.budget_seconds) (void)try_plan(plan);

  const auto most = static_cast<size_t>(std::max(options.candidates, 1));
  while (spent() < options.budget_seconds) {
    beam.resize(std::min(beam.size(), static_cast<size_t>(std::max(options.beam, 1))));
    std::vector<std::pair<double, Plan>> next;
    std::set<std::string> offered;
    for (const Measured& one : beam)
      for (const Plan& plan : space.neighbours(one.plan))
        if (!tried.contains(plan.text()) && offered.insert(plan.text()).second)
          next.emplace_back(space.expected_cycles(plan), plan);
    if (next.empty()) {
      result.exhausted = true;
      break;
    }
    std::ranges::stable_sort(next, {}, &std::pair<double, Plan>::first);
    if (next.size() > most) next.resize(most);
    const double before = beam[0].seconds;
    for (const auto& [cycles, plan] : next) {
      if (spent() >= options.budget_seconds) break;
      (void)try_plan(plan);
    }
    // Nothing better among the most promising ones: the others are unlikely to be.
    if (beam[0].seconds >= before && next.size() == most && result.measured > 60) {
      result.exhausted = true;
      break;
    }
  }
  const bool better = beam[0].seconds < result.usual_seconds * (1 - kLeastGain);
  result.best = better ? beam[0].plan : space.usual;
  result.seconds = better ? beam[0].seconds : result.usual_seconds;
  return result;
}

}  // namespace sporkle::tune
