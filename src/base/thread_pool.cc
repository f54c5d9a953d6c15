#include "base/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "base/log.h"

namespace sporkle {
namespace {

constexpr std::chrono::microseconds kSpin{50};
constexpr int64_t kChunksPerThread = 4;  // more than one, so that a thread that is held up holds up less

// The loop that this thread is inside of, to find nested calls.
struct Inside {
  const void* pool = nullptr;
  int worker = 0;
};
thread_local Inside inside;

void pause_processor() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins until `done()`, for at most kSpin. Returns whether it is done.
template <typename Done>
bool spin_until(const Done& done) {
  const auto deadline = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 32; ++i) {
      if (done()) return true;
      pause_processor();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  return false;
}

}  // namespace

// How a loop is handed over. The caller writes body, count and chunk, then opens the loop by setting kOpen in `entry`.
// A worker that finds it open enters by adding one, takes chunks until none are left, and leaves by subtracting one.
// The caller takes chunks too, closes the loop, and waits until everyone has left; only then may it write the fields
// again. A worker that wakes up too late finds the loop closed and never delays it.
struct ThreadPool::State {
  static constexpr uint32_t kOpen = 1u << 31;

  std::mutex callers;  // one loop at a time
  const Body* body = nullptr;
  int64_t count = 0;
  int64_t chunk = 0;
  std::atomic<int64_t> next{0};  // the first item that nobody has taken
  std::atomic<uint32_t> entry{0};
  std::atomic<uint32_t> loops{0};  // counts loops; workers sleep on it
  std::atomic<bool> stopping{false};
  std::vector<std::thread> workers;

  void take_chunks(int worker) {
    const Inside outer = std::exchange(inside, {this, worker});
    while (true) {
      const int64_t begin = next.fetch_add(chunk, std::memory_order_relaxed);
      if (begin >= count) break;
      (*body)(begin, std::min(count, begin + chunk), worker);
    }
    inside = outer;
  }

  void work(int worker) {
    uint32_t seen = 0;
    while (true) {
      if (!spin_until([&] { return loops.load(std::memory_order_acquire) != seen; })) {
        loops.wait(seen, std::memory_order_acquire);
      }
      seen = loops.load(std::memory_order_acquire);
      if (stopping.load(std::memory_order_acquire)) return;
      uint32_t old = entry.load(std::memory_order_acquire);
      while ((old & kOpen) && !entry.compare_exchange_weak(old, old + 1, std::memory_order_acq_rel)) {
      }
      if (!(old & kOpen)) continue;
      take_chunks(worker);
      if (entry.fetch_sub(1, std::memory_order_acq_rel) == 1) entry.notify_one();  // closed, and the last one left
    }
  }

  void wake_workers() {
    loops.fetch_add(1, std::memory_order_acq_rel);
    loops.notify_all();
  }
};

ThreadPool::ThreadPool(int threads) : state_(std::make_unique<State>()) {
  for (int worker = 1; worker < threads; ++worker) {
    try {
      state_->workers.emplace_back([state = state_.get(), worker] { state->work(worker); });
    } catch (const std::system_error& error) {
      // The system allows no more threads (a limit of the user or container). Loops run on those that there are.
      log(LogLevel::warning, "threads",
          "only " + std::to_string(worker) + " of " + std::to_string(threads) +
              " threads could be started: " + error.what());
      break;
    }
  }
}

ThreadPool::~ThreadPool() {
  state_->stopping.store(true, std::memory_order_release);
  state_->wake_workers();
  for (std::thread& worker : state_->workers) worker.join();
}

int ThreadPool::threads() const { return static_cast<int>(state_->workers.size()) + 1; }

void ThreadPool::parallel_for(int64_t count, const Body& body, int64_t smallest_chunk) {
  if (count <= 0) return;
  State& state = *state_;
  if (inside.pool == &state) {
    body(0, count, inside.worker);
    return;
  }
  std::lock_guard<std::mutex> lock(state.callers);
  const int64_t chunks = threads() == 1 ? 1 : threads() * kChunksPerThread;
  state.body = &body;
  state.count = count;
  state.chunk = std::max({int64_t{1}, smallest_chunk, (count + chunks - 1) / chunks});
  state.next.store(0, std::memory_order_relaxed);
  if (state.workers.empty() || state.chunk >= count) {  // one chunk: nobody to share it with
    state.take_chunks(0);
    return;
  }
  state.entry.store(State::kOpen, std::memory_order_release);
  state.wake_workers();
  state.take_chunks(0);
  uint32_t left = state.entry.fetch_and(~State::kOpen, std::memory_order_acq_rel) & ~State::kOpen;
  if (left != 0 && !spin_until([&] { return state.entry.load(std::memory_order_acquire) == 0; })) {
    while ((left = state.entry.load(std::memory_order_acquire)) != 0) state.entry.wait(left, std::memory_order_acquire);
  }
}

ThreadPool& process_thread_pool() {
  static ThreadPool pool([] {
    if (const char* text = std::getenv("SPORKLE_THREADS")) return std::clamp(std::atoi(text), 1, 1024);
    return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  }());
  return pool;
}

}  // namespace sporkle
