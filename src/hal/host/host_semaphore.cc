#include "hal/host/host_semaphore.h"

#include <chrono>

namespace sporkle::hal {

uint64_t HostSemaphore::value() const {
  std::lock_guard lock(mutex_);
  return value_;
}

Status HostSemaphore::signal(uint64_t value) {
  std::lock_guard lock(mutex_);
  if (!failure_.ok()) return failure_;
  if (value <= value_) {
    return invalid_argument("cannot signal a semaphore with " + std::to_string(value) + ": it is at " +
                            std::to_string(value_) + " and only grows");
  }
  value_ = value;
  changed_.notify_all();
  return {};
}

Status HostSemaphore::outcome(uint64_t value) const { return value_ >= value ? Status() : failure_; }

bool HostSemaphore::settled(uint64_t value) const {
  std::lock_guard lock(mutex_);
  return value_ >= value || !failure_.ok();
}

Status HostSemaphore::wait(uint64_t value, int64_t timeout_ms) {
  std::unique_lock lock(mutex_);
  const auto done = [&] { return value_ >= value || !failure_.ok(); };
  // A timeout too long for the clock's arithmetic is as good as none.
  constexpr int64_t kLongest_ms = int64_t{1000} * 60 * 60 * 24 * 365;
  if (timeout_ms < 0 || timeout_ms > kLongest_ms) {
    changed_.wait(lock, done);
  } else if (!changed_.wait_for(lock, std::chrono::milliseconds(timeout_ms), done)) {
    return {Code::deadline_exceeded, "a semaphore did not reach " + std::to_string(value) + " within " +
                                         std::to_string(timeout_ms) + " ms: it is at " + std::to_string(value_)};
  }
  return outcome(value);
}

Status HostSemaphore::wait(uint64_t value, std::stop_token stop) {
  std::unique_lock lock(mutex_);
  if (!changed_.wait(lock, stop, [&] { return value_ >= value || !failure_.ok(); })) {
    return {Code::cancelled, "the device was closed before a semaphore reached " + std::to_string(value)};
  }
  return outcome(value);
}

void HostSemaphore::fail(Status status) {
  std::lock_guard lock(mutex_);
  if (failure_.ok()) failure_ = std::move(status);
  changed_.notify_all();
}

}  // namespace sporkle::hal
