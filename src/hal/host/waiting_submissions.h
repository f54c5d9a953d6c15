// Submissions that wait for semaphores, each on a thread of its own, so that a thread may submit work and signal what
// it waits for later. Thread-safe.
#pragma once

#include <condition_variable>
#include <functional>
#include <list>
#include <mutex>
#include <thread>
#include <vector>

#include "hal/device.h"
#include "hal/host/host_semaphore.h"

namespace sporkle::hal {

// Whether waiting for the points would return at once. All semaphores are HostSemaphores.
bool all_settled(std::span<const SemaphorePoint> points);
// Every wait for the points fails with `status`.
void fail_all(std::span<const SemaphorePoint> points, const Status& status);

class WaitingSubmissions {
 public:
  // Waits for the points, then calls `go` with success, or with why they will not be reached: a failure that a
  // semaphore reports, or cancelled. unavailable when the system has no thread to give.
  Status defer(std::span<const SemaphorePoint> wait, std::function<void(Status)> go);
  // Waits until every submission that can go has gone; with `all`, also those that wait for a semaphore.
  void drain(bool all);
  // Whether drain would wait.
  bool would_drain(bool all);
  // Ends all waits. Nothing may be deferred afterwards.
  void cancel();

 private:
  struct Entry {
    std::vector<SemaphorePoint> wait;
    bool finished = false;
    std::jthread thread;
  };
  bool drained(bool all) const;  // with mutex_ held

  std::mutex mutex_;
  std::condition_variable changed_;
  std::list<Entry> entries_;
};

}  // namespace sporkle::hal
