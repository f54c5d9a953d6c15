// Threads for loops over independent items: the one place where Sporkle computes on several cores.
//
// All pools of a process share its worker threads. A pool of n threads is the calling thread plus n - 1 of them; with
// n = 1 no thread is made and everything runs inline. Loops on several threads run one after the other, whichever pool
// and thread they come from, so that never more threads are busy than the largest pool has, beside callers whose loops
// run inline. Idle workers spin for about 50 microseconds, then sleep. A pool may be used from any thread. Work must
// not throw.
//
// Where memory lies on several nodes, workers stay on theirs and take the items of a loop that belong to it first.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>

#include "base/cpu_topology.h"

namespace sporkle {

class ThreadPool {
 public:
  // begin <= item < end, and the number of the thread that runs the chunk: 0 <= worker < threads().
  using Body = std::function<void(int64_t begin, int64_t end, int worker)>;

  // Where the system allows fewer threads, the pool has fewer (at least the caller's) and a warning is logged.
  explicit ThreadPool(int threads);
  // With workers of its own, on a machine like this. For tests.
  ThreadPool(int threads, CpuTopology topology);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  // Calls `body` for chunks that together cover 0 <= item < count once, and returns when all are done. The chunks have
  // at least `smallest_chunk` items (but for the last one) and depend on count and threads() alone; which worker takes
  // which chunk does not. A call from inside a body of the same pool runs inline, as one chunk, with its worker's
  // number; one from inside a body of another pool runs inline as worker 0 where it would have to share the workers.
  void parallel_for(int64_t count, const Body& body, int64_t smallest_chunk = 1);

 private:
  struct Workers;
  std::shared_ptr<Workers> workers_;
  int threads_ = 1;
  std::mutex inline_callers_;  // one inline loop at a time: they are all worker 0
};

}  // namespace sporkle
