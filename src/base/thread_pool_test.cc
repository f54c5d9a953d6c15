#include "base/thread_pool.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

namespace sporkle {
namespace {

class ThreadPoolTest : public testing::TestWithParam<int> {};

TEST_P(ThreadPoolTest, CoversEveryItemOnce) {
  ThreadPool pool(GetParam());
  ASSERT_EQ(pool.threads(), GetParam());
  for (int64_t count : {0, 1, 2, 3, 7, 8, 9, 1000}) {
    std::vector<int> visits(static_cast<size_t>(count));
    pool.parallel_for(count, [&](int64_t begin, int64_t end, int worker) {
      EXPECT_GE(worker, 0);
      EXPECT_LT(worker, pool.threads());
      EXPECT_LT(begin, end);
      for (int64_t i = begin; i < end; ++i) ++visits[static_cast<size_t>(i)];
    });
    EXPECT_EQ(std::count(visits.begin(), visits.end(), 1), count);
  }
}

TEST_P(ThreadPoolTest, ResultsAreVisibleAfterEveryOfManyShortLoops) {
  ThreadPool pool(GetParam());
  std::vector<int64_t> values(64);
  for (int64_t loop = 1; loop <= 3000; ++loop) {
    pool.parallel_for(64, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) values[static_cast<size_t>(i)] = loop * i;
    });
    for (int64_t i = 0; i < 64; ++i) ASSERT_EQ(values[static_cast<size_t>(i)], loop * i);
  }
}

TEST_P(ThreadPoolTest, NestedLoopsRunInlineWithTheirWorkersNumber) {
  ThreadPool pool(GetParam());
  std::atomic<int64_t> sum{0};
  pool.parallel_for(16, [&](int64_t begin, int64_t end, int outer) {
    for (int64_t i = begin; i < end; ++i) {
      int calls = 0;
      pool.parallel_for(100, [&](int64_t inner_begin, int64_t inner_end, int inner) {
        EXPECT_EQ(inner, outer);
        ++calls;
        sum += inner_end - inner_begin;
      });
      EXPECT_EQ(calls, 1);
    }
  });
  EXPECT_EQ(sum, 1600);
}

INSTANTIATE_TEST_SUITE_P(Threads, ThreadPoolTest, testing::Values(1, 2, 3, 8));

TEST(ThreadPoolChunks, OneThreadRunsEverythingInlineAsOneChunk) {
  ThreadPool pool(1);
  int calls = 0;
  pool.parallel_for(1000, [&](int64_t begin, int64_t end, int worker) {
    EXPECT_EQ(begin, 0);
    EXPECT_EQ(end, 1000);
    EXPECT_EQ(worker, 0);
    ++calls;
  });
  EXPECT_EQ(calls, 1);
}

TEST(ThreadPoolChunks, AreNoSmallerThanAskedAndAlwaysTheSame) {
  ThreadPool pool(4);
  std::set<std::pair<int64_t, int64_t>> first;
  for (int repeat = 0; repeat < 20; ++repeat) {
    std::mutex mutex;
    std::set<std::pair<int64_t, int64_t>> chunks;
    pool.parallel_for(
        1000,
        [&](int64_t begin, int64_t end, int) {
          std::lock_guard<std::mutex> lock(mutex);
          chunks.emplace(begin, end);
        },
        300);
    EXPECT_EQ(chunks.size(), 4u);
    EXPECT_EQ(chunks.rbegin()->second, 1000);
    for (auto [begin, end] : chunks) EXPECT_TRUE(end - begin == 300 || end == 1000) << begin << " " << end;
    if (repeat == 0) first = chunks;
    EXPECT_EQ(chunks, first);
  }
}

TEST(ThreadPoolWorkers, TwoAreBusyAtOnce) {
  ThreadPool pool(2);
  std::atomic<int> arrived{0};
  // Each chunk waits for the other; one thread alone would never end.
  pool.parallel_for(2, [&](int64_t, int64_t, int) {
    ++arrived;
    while (arrived < 2) std::this_thread::yield();
  });
  EXPECT_EQ(arrived, 2);
}

TEST(ThreadPoolWorkers, NeverMoreAreBusyThanAsked) {
  ThreadPool pool(2);
  std::atomic<int> busy{0}, most{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&] {
      for (int loop = 0; loop < 200; ++loop) {
        pool.parallel_for(8, [&](int64_t, int64_t, int) {
          const int now = ++busy;
          int seen = most;
          while (now > seen && !most.compare_exchange_weak(seen, now)) {
          }
          --busy;
        });
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_LE(most, 2);
}

TEST(ThreadPoolWorkers, WakeUpAfterSleeping) {
  ThreadPool pool(2);
  for (int loop = 0; loop < 20; ++loop) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));  // well past the spinning
    std::atomic<int64_t> sum{0};
    pool.parallel_for(100, [&](int64_t begin, int64_t end, int) { sum += end - begin; });
    ASSERT_EQ(sum, 100);
  }
}

// Keeps the most that were busy at once.
class BusyCount {
 public:
  void enter() {
    const int now = ++busy_;
    int seen = most_;
    while (now > seen && !most_.compare_exchange_weak(seen, now)) {
    }
  }
  void leave() { --busy_; }
  int most() const { return most_; }

 private:
  std::atomic<int> busy_{0}, most_{0};
};

// Pools of several sizes, used from several threads at once: the threads of this process that compute are counted by
// what they run, and by what the system says there are.
TEST(ThreadPoolWorkers, PoolsTogetherAreNoBusierThanTheLargest) {
  ThreadPool two(2), three(3), also_three(3);
  BusyCount busy;
  std::vector<std::thread> callers;
  for (ThreadPool* pool : {&two, &three, &also_three, &two})
    callers.emplace_back([&busy, pool] {
      for (int loop = 0; loop < 200; ++loop)
        pool->parallel_for(24, [&](int64_t, int64_t, int worker) {
          EXPECT_LT(worker, pool->threads());
          busy.enter();
          for (int i = 0; i < 5; ++i) std::this_thread::yield();
          busy.leave();
        });
    });
  for (std::thread& caller : callers) caller.join();
  EXPECT_LE(busy.most(), 3);
}

int thread_count_of_process() {
  int count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) ++count;
  return count;
}

TEST(ThreadPoolWorkers, AreSharedByAllPools) {
  ThreadPool first(4);
  const int before = thread_count_of_process();
  ThreadPool second(4), third(3), alone(1);
  EXPECT_EQ(thread_count_of_process(), before);
}

TEST(ThreadPoolWorkers, ALoopInsideAnothersPoolRunsInline) {
  ThreadPool outer(3), inner(2);
  std::atomic<int64_t> sum{0};
  outer.parallel_for(12, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i)
      inner.parallel_for(50, [&](int64_t b, int64_t e, int worker) {
        EXPECT_EQ(worker, 0);
        sum += e - b;
      });
  });
  EXPECT_EQ(sum, 600);
}

TEST(ThreadPoolNodes, ChunksBelongToNodesInOrderAndAllAreDone) {
  // Two nodes that are this machine's first processor twice: pinning works wherever the test runs.
  const std::vector<int> processor{host_topology().nodes[0][0]};
  ThreadPool pool(2, CpuTopology{{processor, processor}});
  ASSERT_EQ(pool.threads(), 2);
  for (const int64_t count : {1, 2, 5, 64, 1001}) {
    std::vector<int> visits(static_cast<size_t>(count));
    pool.parallel_for(count, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) ++visits[static_cast<size_t>(i)];
    });
    EXPECT_EQ(std::count(visits.begin(), visits.end(), 1), count);
  }
  // Both threads at work at once: each starts with its own node's half.
  std::atomic<int> arrived{0};
  std::atomic<int64_t> first[2] = {-1, -1};
  pool.parallel_for(80, [&](int64_t begin, int64_t, int worker) {
    int64_t none = -1;
    if (first[worker].compare_exchange_strong(none, begin)) {
      ++arrived;
      while (arrived < 2) std::this_thread::yield();
    }
  });
  EXPECT_EQ(first[0], 0);
  EXPECT_EQ(first[1], 40);
}

TEST(ThreadPoolNodes, WorkersStayOnTheirNode) {
  const std::vector<std::vector<int>> nodes = host_topology().nodes;
  if (nodes[0].size() < 2) GTEST_SKIP() << "one processor";
  ThreadPool pool(2, CpuTopology{{{nodes[0][0]}, {nodes[0][1]}}});
  std::atomic<int> arrived{0}, processor{-1};
  pool.parallel_for(2, [&](int64_t, int64_t, int worker) {
    if (worker == 1) processor = ::sched_getcpu();
    ++arrived;
    while (arrived < 2) std::this_thread::yield();
  });
  EXPECT_EQ(processor, nodes[0][1]);
}

// Sanitizers reserve more addresses than the limit leaves.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
TEST(ThreadPoolDeathTest, HasFewerThreadsWhereTheSystemAllowsNoMore) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  const auto use_a_limited_pool = [] {
    const rlimit limit{256u << 20, 256u << 20};  // bytes of addresses: room for some stacks of 8 MiB, not for 500
    ::setrlimit(RLIMIT_AS, &limit);
    ThreadPool pool(500);
    std::atomic<int64_t> items = 0;
    pool.parallel_for(1000, [&](int64_t begin, int64_t end, int) { items += end - begin; });
    std::_Exit(pool.threads() > 1 && pool.threads() < 500 && items == 1000 ? 0 : 1);
  };
  EXPECT_EXIT(use_a_limited_pool(), testing::ExitedWithCode(0), "of 500 threads could be started");
}
#endif

}  // namespace
}  // namespace sporkle
