// Cancellation: word to whoever works on a call that nobody waits for its answer any more.
//
// Shared by the connection, which requests it, and the work. Thread-safe.
#pragma once

#include <atomic>
#include <functional>
#include <mutex>
#include <utility>

namespace sporkle::mesh {

class Cancellation {
 public:
  // True from the moment that nobody waits: the caller has given up or has its answer, its deadline has passed, or its
  // connection is gone.
  bool requested() const { return requested_.load(std::memory_order_acquire); }

  // Calls `action` when the caller is gone without an answer: once, on the connection's thread, which it must not
  // block; or now, when that has happened already. A later action replaces one that has not been called.
  void on_request(std::function<void()> action) {
    {
      const std::lock_guard lock(mutex_);
      if (!requested()) {
        action_ = std::move(action);
        return;
      }
      if (finished_) return;
    }
    if (action) action();
  }

  void request() {
    std::function<void()> action;
    {
      const std::lock_guard lock(mutex_);
      if (requested_.exchange(true, std::memory_order_acq_rel)) return;
      action = std::exchange(action_, nullptr);
    }
    if (action) action();
  }

  // The work is done and answered: the action has no use any more.
  void finish() {
    std::function<void()> dropped;
    const std::lock_guard lock(mutex_);
    if (requested_.exchange(true, std::memory_order_acq_rel)) return;
    finished_ = true;
    dropped.swap(action_);
  }

 private:
  std::atomic<bool> requested_{false};
  std::mutex mutex_;
  bool finished_ = false;
  std::function<void()> action_;
};

}  // namespace sporkle::mesh
