// Pure arithmetic of a round: who does how many steps, how long that takes, and which updates stand out. Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace sporkle::run {

// Divides `total` steps in proportion to `speeds` (any unit; 0 is unknown and counts as the median of the known), by
// largest remainder, ties to the lower index. Everybody gets at least one step as long as there are enough; with fewer
// steps than workers the fastest get one each.
std::vector<uint32_t> divide_steps(uint64_t total, std::span<const double> speeds);

// The length of an update of so many steps, made comparable between short and long rounds: norm / steps^(3/4). Coherent
// steps add up like steps, random ones like sqrt(steps); the exponent between them keeps both within a factor of
// steps^(1/4).
double comparable_norm(double norm, uint32_t steps);

// Fewer norms than this say nothing about what is usual.
inline constexpr size_t kNormsNeeded = 3;

// 0 for an empty list.
double median(std::vector<double> values);

}  // namespace sporkle::run
