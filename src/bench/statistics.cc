#include "bench/statistics.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace sporkle::bench {

double quantile(std::span<const double> values, double q) {
  std::vector<double> sorted(values.begin(), values.end());
  std::ranges::sort(sorted);
  const double position = q * static_cast<double>(sorted.size() - 1);
  const size_t below = static_cast<size_t>(position), above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (position - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

double median(std::span<const double> values) { return quantile(values, 0.5); }

double relative_noise(std::span<const double> values) {
  if (values.size() < 2) return 0;
  const double middle = median(values);
  return middle == 0 ? 0 : std::abs((quantile(values, 0.75) - quantile(values, 0.25)) / 2 / middle);
}

}  // namespace sporkle::bench
