// Clock: time as an interface, so that the logic of a run can be tested under simulated time.
//
// SystemClock is real; ManualClock stands still until a test advances it. Both are thread-safe.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

namespace sporkle::mesh {

class Clock {
 public:
  using Duration = std::chrono::nanoseconds;
  using TimePoint = std::chrono::time_point<std::chrono::steady_clock, Duration>;
  using TimerId = uint64_t;

  virtual ~Clock() = default;

  // Never goes back; has no meaning outside this process.
  virtual TimePoint now() const = 0;
  // Milliseconds since 1970: for records that outlive the process. May jump.
  virtual int64_t unix_ms() const = 0;
  virtual void sleep_until(TimePoint when) = 0;
  void sleep_for(Duration duration) { sleep_until(now() + duration); }

  // Calls `action` once `when` has come: on the clock's own thread (SystemClock) or inside advance() (ManualClock),
  // one action at a time, the earliest first. An action may use the clock but must not destroy it.
  virtual TimerId call_at(TimePoint when, std::function<void()> action) = 0;
  TimerId call_after(Duration delay, std::function<void()> action) { return call_at(now() + delay, std::move(action)); }
  // True when the action had not begun and now never will.
  virtual bool cancel(TimerId timer) = 0;
};

// Seconds since 1970, for whoever has no clock at hand. Thread-safe.
uint64_t unix_seconds();

class SystemClock : public Clock {
 public:
  SystemClock();
  // Drops the timers that have not begun and waits for one that has.
  ~SystemClock() override;
  TimePoint now() const override;
  int64_t unix_ms() const override;
  void sleep_until(TimePoint when) override;
  TimerId call_at(TimePoint when, std::function<void()> action) override;
  bool cancel(TimerId timer) override;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

class ManualClock : public Clock {
 public:
  explicit ManualClock(int64_t start_unix_ms = 1'700'000'000'000) : start_unix_ms_(start_unix_ms) {}

  TimePoint now() const override;
  int64_t unix_ms() const override;
  // Blocks until another thread has advanced the clock so far.
  void sleep_until(TimePoint when) override;
  TimerId call_at(TimePoint when, std::function<void()> action) override;
  bool cancel(TimerId timer) override;

  // Moves time on, stopping at every timer on the way to run its action at exactly its time.
  void advance(Duration duration);
  // The time of the next timer, or TimePoint::max().
  TimePoint next_timer() const;

 private:
  const int64_t start_unix_ms_;
  mutable std::mutex mutex_;
  std::condition_variable moved_;
  TimePoint now_{};
  TimerId last_id_ = 0;
  std::map<std::pair<TimePoint, TimerId>, std::function<void()>> timers_;
};

}  // namespace sporkle::mesh
