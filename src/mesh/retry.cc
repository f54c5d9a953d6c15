#include "mesh/retry.h"

#include <algorithm>
#include <random>

namespace sporkle::mesh {
namespace {

// splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
uint64_t next_random(uint64_t& state) {
  uint64_t z = state += 0x9E3779B97F4A7C15;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

}  // namespace

Backoff::Backoff(const BackoffOptions& options)
    : options_(options), nominal_ms_(static_cast<double>(options.first.count())), random_state_(options.seed) {
  if (random_state_ == 0) {
    std::random_device device;
    random_state_ = uint64_t{device()} << 32 | device();
  }
}

std::chrono::milliseconds Backoff::next() {
  const double share = 0.5 + 0.5 * static_cast<double>(next_random(random_state_) >> 11) * 0x1p-53;
  const double wait = nominal_ms_ * share;
  nominal_ms_ = std::min(nominal_ms_ * options_.factor, static_cast<double>(options_.longest.count()));
  return std::chrono::milliseconds(static_cast<int64_t>(wait));
}

void Backoff::reset() { nominal_ms_ = static_cast<double>(options_.first.count()); }

bool is_retryable(const Status& status) {
  return status.code() == Code::unavailable || status.code() == Code::deadline_exceeded;
}

Status retry(Clock& clock, Clock::TimePoint deadline, const std::function<Status()>& attempt,
             const BackoffOptions& options) {
  Backoff backoff(options);
  for (;;) {
    Status status = attempt();
    if (status.ok() || !is_retryable(status)) return status;
    const Clock::TimePoint now = clock.now();
    if (now >= deadline) return status;
    clock.sleep_until(std::min<Clock::TimePoint>(now + backoff.next(), deadline));
  }
}

}  // namespace sporkle::mesh
