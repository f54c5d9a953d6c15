// Seconds as a double, and the clock's durations.
#pragma once

#include <algorithm>
#include <chrono>

#include "mesh/clock.h"

namespace sporkle::run {

// Thirty years at most, so that sums of time points cannot overflow.
inline mesh::Clock::Duration to_duration(double seconds) {
  return std::chrono::nanoseconds(static_cast<int64_t>(std::clamp(seconds, 0.0, 1e9) * 1e9));
}

inline double to_seconds(mesh::Clock::Duration duration) { return std::chrono::duration<double>(duration).count(); }

}  // namespace sporkle::run
