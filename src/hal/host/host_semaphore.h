// A timeline semaphore in host memory, for devices whose commands run on the processor. Thread-safe.
#pragma once

#include <condition_variable>
#include <mutex>
#include <stop_token>

#include "hal/device.h"

namespace sporkle::hal {

class HostSemaphore final : public Semaphore {
 public:
  explicit HostSemaphore(uint64_t initial_value) : value_(initial_value) {}

  uint64_t value() const override;
  // invalid_argument unless `value` is above the current one.
  Status signal(uint64_t value) override;
  Status wait(uint64_t value, int64_t timeout_ms) override;

  // Waits without a limit, until `stop` is requested: cancelled.
  Status wait(uint64_t value, std::stop_token stop);
  // Every wait for a value that is not reached, now or later, returns `status`. The first failure stays.
  void fail(Status status);
  // Whether a wait for `value` would return at once, with success or with the failure.
  bool settled(uint64_t value) const;

 private:
  Status outcome(uint64_t value) const;  // with mutex_ held; the value is reached, or the semaphore has failed

  mutable std::mutex mutex_;
  std::condition_variable_any changed_;
  uint64_t value_;
  Status failure_;
};

}  // namespace sporkle::hal
