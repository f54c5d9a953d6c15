#include "hal/host/waiting_submissions.h"

#include <algorithm>
#include <system_error>

namespace sporkle::hal {
namespace {

HostSemaphore& host(const SemaphoreRef& semaphore) { return static_cast<HostSemaphore&>(*semaphore); }

}  // namespace

bool all_settled(std::span<const SemaphorePoint> points) {
  return std::ranges::all_of(points, [](const SemaphorePoint& p) { return host(p.semaphore).settled(p.value); });
}

void fail_all(std::span<const SemaphorePoint> points, const Status& status) {
  for (const SemaphorePoint& point : points) host(point.semaphore).fail(status);
}

Status WaitingSubmissions::defer(std::span<const SemaphorePoint> wait, std::function<void(Status)> go) {
  std::lock_guard lock(mutex_);
  entries_.remove_if([](const Entry& entry) { return entry.finished; });  // joins threads that have nothing left to do
  Entry& entry = entries_.emplace_back();
  entry.wait.assign(wait.begin(), wait.end());
  const auto run = [this, &entry, go = std::move(go)](std::stop_token stop) {
    Status status;
    for (const SemaphorePoint& point : entry.wait) {
      if (status.ok()) status = host(point.semaphore).wait(point.value, stop);
    }
    go(status);
    std::lock_guard done(mutex_);
    entry.finished = true;
    changed_.notify_all();
  };
  try {
    entry.thread = std::jthread(run);
  } catch (const std::system_error& error) {
    entries_.pop_back();
    return unavailable(std::string("no thread for a submission that waits: ") + error.what());
  }
  return {};
}

bool WaitingSubmissions::drained(bool all) const {
  return std::ranges::all_of(entries_,
                             [&](const Entry& entry) { return entry.finished || (!all && !all_settled(entry.wait)); });
}

bool WaitingSubmissions::would_drain(bool all) {
  std::lock_guard lock(mutex_);
  return !drained(all);
}

void WaitingSubmissions::drain(bool all) {
  std::list<Entry> finished;  // joined after the lock is released
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return drained(all); });
  for (auto i = entries_.begin(); i != entries_.end();) {
    const auto next = std::next(i);
    if (i->finished) finished.splice(finished.end(), entries_, i);
    i = next;
  }
}

void WaitingSubmissions::cancel() {
  std::lock_guard lock(mutex_);
  for (Entry& entry : entries_) entry.thread.request_stop();
}

}  // namespace sporkle::hal
