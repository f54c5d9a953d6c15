// Retries with jittered exponential back-off, so that a thousand nodes that lost one coordinator do not come back in
// the same millisecond.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>

#include "base/status.h"
#include "mesh/clock.h"

namespace sporkle::mesh {

struct BackoffOptions {
  std::chrono::milliseconds first{50};
  std::chrono::milliseconds longest{5'000};
  double factor = 2.0;
  uint64_t seed = 0;  // 0 takes a random one
};

// The waits between attempts: each is drawn evenly from half its nominal value to all of it, and the nominal value
// grows by the factor. Not thread-safe.
class Backoff {
 public:
  explicit Backoff(const BackoffOptions& options = {});
  std::chrono::milliseconds next();
  // After a success: the next wait is short again.
  void reset();

 private:
  BackoffOptions options_;
  double nominal_ms_;
  uint64_t random_state_;
};

// Whether waiting may help: unavailable, deadline_exceeded.
bool is_retryable(const Status& status);

// Calls `attempt` until it succeeds, fails with a status that is not retryable, or `deadline` has passed (then the last
// failure is returned). Sleeps on `clock` in between, never beyond the deadline.
Status retry(Clock& clock, Clock::TimePoint deadline, const std::function<Status()>& attempt,
             const BackoffOptions& options = {});

}  // namespace sporkle::mesh
