// A pool of threads for loops over independent items: the one place where Sporkle computes on several cores.
//
// A pool of n threads is the calling thread plus n - 1 of its own, so that never more than n are busy; with n = 1 no
// thread is made and everything runs inline. Idle workers spin for about 50 microseconds, then sleep. A pool may be
// used from any thread; loops started by different threads run one after the other. Work must not throw.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace sporkle {

class ThreadPool {
 public:
  // begin <= item < end, and the number of the thread that runs the chunk: 0 <= worker < threads().
  using Body = std::function<void(int64_t begin, int64_t end, int worker)>;

  // Where the system allows fewer threads, the pool has fewer (at least the caller's) and a warning is logged.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const;

  // Calls `body` for chunks that together cover 0 <= item < count once, and returns when all are done. The chunks have
  // at least `smallest_chunk` items (but for the last one) and depend on count and threads() alone; which worker takes
  // which chunk does not. A call from inside a body of the same pool runs inline, as one chunk, with its worker's
  // number.
  void parallel_for(int64_t count, const Body& body, int64_t smallest_chunk = 1);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// The pool that everything in this process shares, made on first use with $SPORKLE_THREADS threads, or one for each
// processor that the process may use.
ThreadPool& process_thread_pool();

}  // namespace sporkle
