// TokenBucket: so many actions a second, and a burst after a pause. Not thread-safe.
#pragma once

#include <algorithm>
#include <chrono>

#include "mesh/clock.h"

namespace sporkle::mesh {

class TokenBucket {
 public:
  TokenBucket(double per_second, double burst) : per_second_(per_second), burst_(burst), tokens_(burst) {}

  // Whether one more may happen now; if so it counts. `now` must not go back.
  bool take(Clock::TimePoint now) {
    if (last_ != Clock::TimePoint{})
      tokens_ = std::min(burst_, tokens_ + per_second_ * std::chrono::duration<double>(now - last_).count());
    last_ = now;
    if (tokens_ < 1) return false;
    tokens_ -= 1;
    return true;
  }

 private:
  double per_second_, burst_, tokens_;
  Clock::TimePoint last_{};
};

}  // namespace sporkle::mesh
