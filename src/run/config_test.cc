#include "run/config.h"

#include <gtest/gtest.h>

#include "run/simulation_testing.h"

namespace sporkle::run {
namespace {

TEST(InnerStepSchedule, IsAListOfStepsAndRounds) {
  const auto schedule = InnerStepSchedule::parse("1x4, 2x4,5x10,20");
  ASSERT_TRUE(schedule.ok());
  EXPECT_EQ(schedule->steps(0), 1u);
  EXPECT_EQ(schedule->steps(3), 1u);
  EXPECT_EQ(schedule->steps(4), 2u);
  EXPECT_EQ(schedule->steps(8), 5u);
  EXPECT_EQ(schedule->steps(17), 5u);
  EXPECT_EQ(schedule->steps(18), 20u);
  EXPECT_EQ(schedule->steps(1'000'000), 20u);
  EXPECT_EQ(InnerStepSchedule::parse("100")->steps(5), 100u);
  EXPECT_EQ(InnerStepSchedule::parse("3x2")->steps(7), 3u);
  EXPECT_EQ(InnerStepSchedule::parse("1x2,7x")->steps(2), 7u);
}

TEST(InnerStepSchedule, NamesTheBadEntry) {
  for (const char* bad : {"", "x", "0", "5,6", "5x,6", "5x0,6", "a", "5xa", "-1", "5x3x", "4294967296", "1x2,"}) {
    const auto schedule = InnerStepSchedule::parse(bad);
    EXPECT_EQ(schedule.status().code(), Code::invalid_argument) << bad;
  }
  EXPECT_NE(InnerStepSchedule::parse("1x4,oops,3").status().message().find("oops"), std::string::npos);
}

TEST(RunConfig, ValidationNamesTheField) {
  ASSERT_TRUE(testing::toy_config().validate().ok());
  const auto names = [](const char* field, auto change) {
    RunConfig config = testing::toy_config();
    change(config);
    const Status status = config.validate();
    EXPECT_EQ(status.code(), Code::invalid_argument) << field;
    EXPECT_NE(status.message().find(field), std::string::npos) << status.message();
  };
  names("parameter_count", [](RunConfig& c) { c.manifest.parameter_count = 0; });
  names("token_bytes", [](RunConfig& c) { c.manifest.token_bytes = 3; });
  names("tokens_per_step", [](RunConfig& c) { c.manifest.tokens_per_step = 0; });
  names("shard_tokens", [](RunConfig& c) { c.manifest.shard_tokens = 0; });
  names("shard_tokens", [](RunConfig& c) { c.manifest.tokens_per_step = 1'000'000; });
  names("total_steps", [](RunConfig& c) { c.manifest.total_steps = 0; });
  names("nominal_workers", [](RunConfig& c) { c.manifest.nominal_workers = 0; });
  names("inner steps", [](RunConfig& c) { c.inner_steps = "none"; });
  names("outer", [](RunConfig& c) { c.outer.clear(); });
  names("outer", [](RunConfig& c) { c.outer = {{0, {}}, {5, {}}, {5, {}}}; });
  names("learning rate", [](RunConfig& c) { c.outer[0].step.learning_rate = 0; });
  names("momentum", [](RunConfig& c) { c.outer[0].step.momentum = 1; });
  names("quorum", [](RunConfig& c) { c.quorum = 0; });
  names("start_workers", [](RunConfig& c) { c.start_workers = 0; });
  names("deadline_factor", [](RunConfig& c) { c.deadline_factor = 0.5; });
  names("heartbeat_timeout_s", [](RunConfig& c) { c.heartbeat_timeout_s = c.heartbeat_interval_s; });
  names("norm_bound", [](RunConfig& c) { c.norm_bound = 1; });
}

TEST(RunConfig, OuterPhasesSwitchByRound) {
  RunConfig config = testing::toy_config();
  config.outer = {{0, {1.0f, 0.0f}}, {10, {0.7f, 0.9f}}};
  EXPECT_EQ(config.outer_step(9).momentum, 0.0f);
  EXPECT_EQ(config.outer_step(10).momentum, 0.9f);
  EXPECT_EQ(config.outer_step(10).learning_rate, 0.7f);
}

TEST(RunConfig, AllReduceBytes) {
  // A ring of 4 sends 2 * 3/4 of the tensor and receives as much.
  EXPECT_EQ(all_reduce_bytes_per_node(1000, 4, 10), 2u * 2 * 3 * 1000 * 4 * 10 / 4);
  EXPECT_EQ(all_reduce_bytes_per_node(1000, 1, 10), 0u);
}

}  // namespace
}  // namespace sporkle::run
