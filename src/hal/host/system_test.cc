#include "hal/host/system.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstdlib>
#include <optional>
#include <thread>

namespace sporkle::hal {
namespace {

class Variable {
 public:
  Variable(const char* name, const std::string& value) : name_(name) {
    if (const char* old = std::getenv(name)) old_ = old;
    ::setenv(name, value.c_str(), 1);
  }
  ~Variable() { old_ ? ::setenv(name_, old_->c_str(), 1) : ::unsetenv(name_); }

 private:
  const char* name_;
  std::optional<std::string> old_;
};

TEST(Threads, ReservedCoresAreLeftAlone) {
  const int cores = usable_cores();
  {
    const Variable reserve("SPORKLE_RESERVE_CORES", "0");
    EXPECT_EQ(*thread_count(7), 7);
  }
  if (cores > 1) {
    const Variable reserve("SPORKLE_RESERVE_CORES", "1");
    EXPECT_EQ(*thread_count(0), std::min(cores, kMostThreads) - 1);
    EXPECT_EQ(*thread_count(1000), std::min(cores, kMostThreads) - 1);
    EXPECT_EQ(*thread_count(1), 1);
  }
  for (const std::string& text : {std::to_string(cores), std::string("100000")}) {
    const Variable reserve("SPORKLE_RESERVE_CORES", text);
    const Status status = thread_count(1).status();
    EXPECT_EQ(status.code(), Code::invalid_argument);
    EXPECT_NE(status.message().find("leaves none to compute with"), std::string::npos) << status.message();
  }
  for (const char* text : {"-1", "all", "1.5"}) {
    const Variable reserve("SPORKLE_RESERVE_CORES", text);
    EXPECT_NE(thread_count(0).status().message().find("give the number of cores to leave alone"), std::string::npos);
  }
}

TEST(Threads, ANiceLevelHoldsForThreadsStartedLater) {
  EXPECT_EQ(set_nice_level(-1).code(), Code::invalid_argument);
  EXPECT_EQ(set_nice_level(20).code(), Code::invalid_argument);
  int inherited = -1;
  // In a thread of its own, whose priority nobody needs back.
  std::thread([&] {
    const int before = ::getpriority(PRIO_PROCESS, 0);
    if (before >= kMostNice) return;
    ASSERT_TRUE(set_nice_level(before + 1).ok());
    ASSERT_TRUE(set_nice_level(0).ok());  // never back
    std::thread([&] { inherited = ::getpriority(PRIO_PROCESS, 0) - before; }).join();
  }).join();
  EXPECT_TRUE(inherited == 1 || ::getpriority(PRIO_PROCESS, 0) >= kMostNice) << inherited;
}

}  // namespace
}  // namespace sporkle::hal
