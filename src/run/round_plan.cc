#include "run/round_plan.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace sporkle::run {

std::vector<uint32_t> divide_steps(uint64_t total, std::span<const double> speeds) {
  std::vector<uint32_t> steps(speeds.size(), 0);
  if (speeds.empty()) return steps;
  std::vector<double> known;
  for (const double speed : speeds)
    if (speed > 0) known.push_back(speed);
  const double typical = known.empty() ? 1.0 : median(known);
  std::vector<double> share(speeds.size());
  for (size_t i = 0; i < share.size(); ++i) share[i] = speeds[i] > 0 ? speeds[i] : typical;
  const double sum = std::accumulate(share.begin(), share.end(), 0.0);
  std::vector<size_t> order(speeds.size());
  std::iota(order.begin(), order.end(), size_t{0});
  if (total <= speeds.size()) {
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return share[a] > share[b]; });
    for (uint64_t i = 0; i < total; ++i) steps[order[i]] = 1;
    return steps;
  }
  std::vector<double> exact(speeds.size());
  uint64_t given = 0;
  for (size_t i = 0; i < share.size(); ++i) {
    exact[i] = static_cast<double>(total) * (share[i] / sum);
    steps[i] = static_cast<uint32_t>(std::clamp(std::floor(exact[i]), 1.0, 4e9));
    given += steps[i];
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return exact[a] - steps[a] > exact[b] - steps[b]; });
  for (size_t i = 0; given < total; i = (i + 1) % order.size()) {
    ++steps[order[i]];
    ++given;
  }
  // The minimum of one step may have handed out too many: the largest shares give them back.
  while (given > total) {
    --*std::max_element(steps.begin(), steps.end());
    --given;
  }
  return steps;
}

double comparable_norm(double norm, uint32_t steps) {
  const double root = std::sqrt(static_cast<double>(std::max(steps, 1u)));
  return norm / (root * std::sqrt(root));
}

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace sporkle::run
