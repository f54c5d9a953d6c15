#include "base/seconds.h"

#include <gtest/gtest.h>

#include <thread>

namespace sporkle {
namespace {

TEST(Seconds, AProcessGrowsOlderAsTheClockGoes) {
  const double age_s = process_age_s(), start_s = now_s();
  EXPECT_GE(age_s, 0);
  EXPECT_LT(age_s, 3600);
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  const double passed_s = now_s() - start_s;
  EXPECT_GE(passed_s, 0.05);
  EXPECT_NEAR(process_age_s() - age_s, passed_s, 0.03);
}

}  // namespace
}  // namespace sporkle
