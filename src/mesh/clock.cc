#include "mesh/clock.h"

#include <thread>

namespace sporkle::mesh {
namespace {

using Timers = std::map<std::pair<Clock::TimePoint, Clock::TimerId>, std::function<void()>>;

bool erase_timer(Timers& timers, Clock::TimerId id) {
  for (auto it = timers.begin(); it != timers.end(); ++it) {
    if (it->first.second == id) {
      timers.erase(it);
      return true;
    }
  }
  return false;
}

}  // namespace

struct SystemClock::State {
  std::mutex mutex;
  std::condition_variable changed;
  Timers timers;
  TimerId last_id = 0;
  bool stopping = false;
  std::thread thread;  // started by the first timer

  void run() {
    std::unique_lock lock(mutex);
    while (!stopping) {
      if (timers.empty()) {
        changed.wait(lock);
        continue;
      }
      const auto first = timers.begin();
      const TimePoint when = first->first.first;
      if (std::chrono::steady_clock::now() < when) {
        changed.wait_until(lock, when);
        continue;
      }
      const std::function<void()> action = std::move(first->second);
      timers.erase(first);
      lock.unlock();
      action();
      lock.lock();
    }
  }
};

SystemClock::SystemClock() : state_(std::make_unique<State>()) {}

SystemClock::~SystemClock() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->stopping = true;
  }
  state_->changed.notify_all();
  if (state_->thread.joinable()) state_->thread.join();
}

Clock::TimePoint SystemClock::now() const { return std::chrono::steady_clock::now(); }

uint64_t unix_seconds() {
  const auto since_epoch = std::chrono::system_clock::now().time_since_epoch();
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::seconds>(since_epoch).count());
}

int64_t SystemClock::unix_ms() const {
  const auto since_epoch = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::milliseconds>(since_epoch).count();
}

void SystemClock::sleep_until(TimePoint when) { std::this_thread::sleep_until(when); }

Clock::TimerId SystemClock::call_at(TimePoint when, std::function<void()> action) {
  const std::lock_guard lock(state_->mutex);
  const TimerId id = ++state_->last_id;
  state_->timers.emplace(std::pair(when, id), std::move(action));
  if (!state_->thread.joinable()) state_->thread = std::thread([state = state_.get()] { state->run(); });
  state_->changed.notify_all();
  return id;
}

bool SystemClock::cancel(TimerId timer) {
  const std::lock_guard lock(state_->mutex);
  return erase_timer(state_->timers, timer);
}

Clock::TimePoint ManualClock::now() const {
  const std::lock_guard lock(mutex_);
  return now_;
}

int64_t ManualClock::unix_ms() const {
  return start_unix_ms_ + std::chrono::duration_cast<std::chrono::milliseconds>(now().time_since_epoch()).count();
}

void ManualClock::sleep_until(TimePoint when) {
  std::unique_lock lock(mutex_);
  moved_.wait(lock, [&] { return now_ >= when; });
}

Clock::TimerId ManualClock::call_at(TimePoint when, std::function<void()> action) {
  const std::lock_guard lock(mutex_);
  timers_.emplace(std::pair(when, ++last_id_), std::move(action));
  return last_id_;
}

bool ManualClock::cancel(TimerId timer) {
  const std::lock_guard lock(mutex_);
  return erase_timer(timers_, timer);
}

void ManualClock::advance(Duration duration) {
  std::unique_lock lock(mutex_);
  const TimePoint target = now_ + duration;
  while (!timers_.empty() && timers_.begin()->first.first <= target) {
    const auto first = timers_.begin();
    if (first->first.first > now_) now_ = first->first.first;
    const std::function<void()> action = std::move(first->second);
    timers_.erase(first);
    moved_.notify_all();
    lock.unlock();
    action();
    lock.lock();
  }
  if (target > now_) now_ = target;
  moved_.notify_all();
}

Clock::TimePoint ManualClock::next_timer() const {
  const std::lock_guard lock(mutex_);
  return timers_.empty() ? TimePoint::max() : timers_.begin()->first.first;
}

}  // namespace sporkle::mesh
