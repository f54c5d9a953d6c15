#include "mesh/clock.h"

#include <gtest/gtest.h>

#include <future>
#include <set>
#include <thread>
#include <vector>

#include "mesh/retry.h"

namespace sporkle::mesh {
namespace {

using namespace std::chrono_literals;

TEST(ManualClock, RunsTimersInOrderAtTheirTimes) {
  ManualClock clock(1000);
  const auto start = clock.now();
  std::vector<std::pair<int, Clock::Duration>> ran;
  const auto record = [&](int name) { return [&, name] { ran.emplace_back(name, clock.now() - start); }; };
  clock.call_after(20ms, record(2));
  clock.call_after(10ms, [&] {
    record(1)();
    clock.call_after(5ms, record(3));  // set on the way, due on the way
  });
  const auto dropped = clock.call_after(12ms, record(4));
  clock.call_after(50ms, record(5));
  EXPECT_TRUE(clock.cancel(dropped));
  EXPECT_FALSE(clock.cancel(dropped));
  EXPECT_EQ(clock.next_timer(), start + 10ms);
  clock.advance(30ms);
  const std::vector<std::pair<int, Clock::Duration>> expected = {{1, 10ms}, {3, 15ms}, {2, 20ms}};
  EXPECT_EQ(ran, expected);
  EXPECT_EQ(clock.now(), start + 30ms);
  EXPECT_EQ(clock.unix_ms(), 1030);
}

TEST(ManualClock, WakesSleepers) {
  ManualClock clock;
  auto sleeper = std::async(std::launch::async, [&] { clock.sleep_for(1h); });
  while (sleeper.wait_for(1ms) != std::future_status::ready) clock.advance(30min);
  sleeper.get();
}

TEST(SystemClock, RunsTimersInOrderAndCancels) {
  SystemClock clock;
  std::promise<void> last;
  std::vector<int> ran;
  clock.call_after(30ms, [&] {
    ran.push_back(2);
    last.set_value();
  });
  clock.call_after(1ms, [&] { ran.push_back(1); });
  EXPECT_TRUE(clock.cancel(clock.call_after(2ms + 1h, [&] { ran.push_back(3); })));
  last.get_future().wait();
  EXPECT_EQ(ran, (std::vector{1, 2}));
  const auto before = clock.now();
  clock.sleep_for(5ms);
  EXPECT_GE(clock.now() - before, 5ms);
  clock.call_after(1h, [] {});  // must not hold up the destructor
}

TEST(Backoff, GrowsWithJitterUpToItsLongest) {
  Backoff backoff({100ms, 1000ms, 2.0, 5});
  for (const int nominal : {100, 200, 400, 800, 1000, 1000}) {
    const auto wait = backoff.next();
    EXPECT_GE(wait.count(), nominal / 2);
    EXPECT_LE(wait.count(), nominal);
  }
  backoff.reset();
  EXPECT_LE(backoff.next(), 100ms);
  std::set<int64_t> waits;
  for (uint64_t seed = 0; seed < 20; ++seed) waits.insert(Backoff({1000ms, 1000ms, 2.0, seed}).next().count());
  EXPECT_GT(waits.size(), 10u) << "nodes must not all come back at once";
}

// A clock on which sleeping takes no real time.
class SleeplessClock : public ManualClock {
 public:
  void sleep_until(TimePoint when) override {
    if (when > now()) advance(when - now());
  }
};

TEST(Retry, UntilSuccessDeadlineOrAFailureThatWaitingCannotCure) {
  SleeplessClock clock;
  int attempts = 0;
  const auto succeed_third = [&] { return ++attempts < 3 ? unavailable("not yet") : Status(); };
  EXPECT_TRUE(retry(clock, clock.now() + 1h, succeed_third).ok());
  EXPECT_EQ(attempts, 3);

  attempts = 0;
  const auto deadline = clock.now() + 1s;
  const Status late = retry(clock, deadline, [&] {
    ++attempts;
    return unavailable("never");
  });
  EXPECT_EQ(late.message(), "never");
  EXPECT_EQ(clock.now(), deadline);
  EXPECT_GT(attempts, 4);

  attempts = 0;
  const Status refused = retry(clock, clock.now() + 1h, [&] {
    ++attempts;
    return Status(Code::permission_denied, "no");
  });
  EXPECT_EQ(refused.code(), Code::permission_denied);
  EXPECT_EQ(attempts, 1);
}

}  // namespace
}  // namespace sporkle::mesh
