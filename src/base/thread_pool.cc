#include "base/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "base/cpu_topology.h"
#include "base/log.h"

namespace sporkle {
namespace {

constexpr std::chrono::microseconds kSpin{50};
constexpr int64_t kChunksPerThread = 4;  // more than one, so that a thread that is held up holds up less

// The loop that this thread is inside of, to find nested calls.
struct Inside {
  const void* workers = nullptr;  // that share it; null: it runs on this thread alone
  const void* pool = nullptr;
  int worker = 0;
};
thread_local Inside inside;

class InsideScope {
 public:
  InsideScope(const void* workers, const void* pool, int worker)
      : outer_(std::exchange(inside, {workers, pool, worker})) {}
  ~InsideScope() { inside = outer_; }
  InsideScope(const InsideScope&) = delete;
  InsideScope& operator=(const InsideScope&) = delete;

 private:
  const Inside outer_;
};

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

// Threads that any number of pools share.
//
// How a loop is handed over. The caller writes what the loop is, then opens it by setting kOpen in `entry`. A worker
// that finds it open enters by adding one, takes chunks until none are left, and leaves by subtracting one. The caller
// takes chunks too, closes the loop, and waits until everyone has left; only then may it write the fields again. A
// worker that wakes up too late finds the loop closed and never delays it. Workers beyond the loop's own number of
// threads stay asleep, or go back to it at once.
//
// Where memory lies on several nodes, each node has a part of the chunks, as large as its share of the threads, and
// workers stay on their node: what a loop writes first, the same loop later finds nearby. Who is done with its own part
// helps with the others'.
struct ThreadPool::Workers {
  static constexpr uint32_t kOpen = 1u << 31;

  // Chunks of one node; on a cache line of its own.
  struct alignas(64) Part {
    std::atomic<int64_t> next{0};  // the first item that nobody has taken
    int64_t end = 0;
  };

  explicit Workers(CpuTopology given) : topology(std::move(given)), parts(topology.nodes.size()) {}
  ~Workers() {
    stopping.store(true, std::memory_order_release);
    wake();
    for (std::thread& thread : threads) thread.join();
  }

  // How many threads there are, the caller's included, of `wanted`.
  int grow(int wanted);
  void run(const void* owner, int used, int64_t items, int64_t chunk_items, const Body& function);
  void take_chunks(int worker);
  void work(int worker, uint32_t seen);

  void wake() {
    loops.fetch_add(1, std::memory_order_acq_rel);
    loops.notify_all();
  }

  const CpuTopology topology;
  std::mutex callers;  // one loop at a time

  const Body* body = nullptr;
  const void* pool = nullptr;
  int64_t chunk = 0;
  std::vector<Part> parts;  // of the nodes
  std::atomic<int> limit{1};
  std::atomic<uint32_t> entry{0};
  std::atomic<uint32_t> loops{0};  // counts loops; workers sleep on it
  std::atomic<bool> stopping{false};
  std::vector<std::thread> threads;
};

int ThreadPool::Workers::grow(int wanted) {
  const std::lock_guard lock(callers);
  while (static_cast<int>(threads.size()) + 1 < wanted) {
    const int worker = static_cast<int>(threads.size()) + 1;
    try {
      threads.emplace_back([this, worker, seen = loops.load()] { work(worker, seen); });
    } catch (const std::system_error& error) {
      // The system allows no more threads (a limit of the user or container). Loops run on those that there are.
      log(LogLevel::warning, "threads",
          "only " + std::to_string(worker) + " of " + std::to_string(wanted) +
              " threads could be started: " + error.what());
      break;
    }
  }
  return std::min(wanted, static_cast<int>(threads.size()) + 1);
}

void ThreadPool::Workers::take_chunks(int worker) {
  const InsideScope scope(this, pool, worker);
  const size_t own = static_cast<size_t>(topology.node_of(worker));
  for (size_t i = 0; i < parts.size(); ++i) {
    Part& part = parts[(own + i) % parts.size()];
    while (true) {
      const int64_t begin = part.next.fetch_add(chunk, std::memory_order_relaxed);
      if (begin >= part.end) break;
      (*body)(begin, std::min(part.end, begin + chunk), worker);
    }
  }
}

void ThreadPool::Workers::work(int worker, uint32_t seen) {
  if (topology.nodes.size() > 1) pin_this_thread(topology.nodes[static_cast<size_t>(topology.node_of(worker))]);
  bool wanted = true;
  while (true) {
    if (!wanted || !spin_until([&] { return loops.load(std::memory_order_acquire) != seen; })) {
      loops.wait(seen, std::memory_order_acquire);
    }
    seen = loops.load(std::memory_order_acquire);
    if (stopping.load(std::memory_order_acquire)) return;
    wanted = worker < limit.load(std::memory_order_relaxed);
    if (!wanted) continue;
    uint32_t old = entry.load(std::memory_order_acquire);
    while ((old & kOpen) && !entry.compare_exchange_weak(old, old + 1, std::memory_order_acq_rel)) {
    }
    if (!(old & kOpen)) continue;
    // Only now is it certain which loop this is.
    if (worker < limit.load(std::memory_order_relaxed)) take_chunks(worker);
    if (entry.fetch_sub(1, std::memory_order_acq_rel) == 1) entry.notify_one();  // closed, and the last one left
  }
}

void ThreadPool::Workers::run(const void* owner, int used, int64_t items, int64_t chunk_items, const Body& function) {
  const std::lock_guard lock(callers);
  body = &function;
  pool = owner;
  chunk = chunk_items;
  // Whole chunks for each node, by its share of the threads.
  const int64_t chunks = (items + chunk - 1) / chunk;
  std::vector<int> shares(parts.size());
  for (int worker = 0; worker < used; ++worker) ++shares[static_cast<size_t>(topology.node_of(worker))];
  int64_t before = 0;
  for (size_t node = 0, threads_so_far = 0; node < parts.size(); ++node) {
    threads_so_far += static_cast<size_t>(shares[node]);
    const int64_t until = chunks * static_cast<int64_t>(threads_so_far) / used;
    parts[node].next.store(before * chunk, std::memory_order_relaxed);
    parts[node].end = std::min(items, until * chunk);
    before = until;
  }
  limit.store(used, std::memory_order_relaxed);
  entry.store(kOpen, std::memory_order_release);
  wake();
  take_chunks(0);
  uint32_t left = entry.fetch_and(~kOpen, std::memory_order_acq_rel) & ~kOpen;
  if (left != 0 && !spin_until([&] { return entry.load(std::memory_order_acquire) == 0; })) {
    while ((left = entry.load(std::memory_order_acquire)) != 0) entry.wait(left, std::memory_order_acquire);
  }
}

ThreadPool::ThreadPool(int threads) {
  if (threads <= 1) return;
  static const auto shared = std::make_shared<Workers>(host_topology());
  workers_ = shared;
  threads_ = workers_->grow(threads);
}

ThreadPool::ThreadPool(int threads, CpuTopology topology) : workers_(std::make_shared<Workers>(std::move(topology))) {
  threads_ = workers_->grow(threads);
}

ThreadPool::~ThreadPool() = default;

void ThreadPool::parallel_for(int64_t count, const Body& body, int64_t smallest_chunk) {
  if (count <= 0) return;
  if (inside.pool == this) {
    body(0, count, inside.worker);
    return;
  }
  const int64_t chunks = threads_ == 1 ? 1 : threads_ * kChunksPerThread;
  const int64_t chunk = std::max({int64_t{1}, smallest_chunk, (count + chunks - 1) / chunks});
  // Nobody to share it with: one thread or one chunk, or the threads are busy with the loop around this one.
  if (threads_ == 1 || chunk >= count || inside.workers == workers_.get()) {
    const std::lock_guard lock(inline_callers_);
    const InsideScope scope(inside.workers, this, 0);
    body(0, count, 0);
    return;
  }
  workers_->run(this, threads_, count, chunk, body);
}

}  // namespace sporkle
