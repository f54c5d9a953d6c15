// kill -9 of the coordinator: reopened from its store, it goes on to the same bits.
#include <gtest/gtest.h>

#include <cstdlib>

#include "run/coordinator.h"
#include "run/simulation_testing.h"

namespace sporkle::run {
namespace {

using testing::Simulation;
using testing::toy_config;

RunConfig short_config() {
  RunConfig config = toy_config();
  config.manifest.total_steps = 12;
  config.inner_steps = "2x2,4";
  config.outer = {{0, {1.0f, 0.0f}}, {1, {0.8f, 0.5f}}};
  return config;
}

struct Outcome {
  Digest digest;
  uint64_t handled;
};

// Restarts after the coordinator has handled so many messages; never for 0.
Outcome run_with_restart_after(uint64_t message) {
  Simulation simulation(short_config());
  const double speeds[] = {10, 7, 13};
  for (const double speed : speeds) simulation.add_worker(speed);
  simulation.after_handle = [&](uint64_t handled) {
    if (handled == message) simulation.restart();
  };
  EXPECT_TRUE(simulation.run(600)) << "restart after message " << message;
  EXPECT_EQ(simulation.status().tokens, short_config().manifest.total_tokens());
  for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(simulation.worker(i).failure.ok());
  return {simulation.digest(), simulation.handled()};
}

TEST(CoordinatorRestart, AtEveryMessageLeadsToTheSameBits) {
  const Outcome undisturbed = run_with_restart_after(0);
  ASSERT_GT(undisturbed.handled, 40u);
  for (uint64_t message = 1; message <= undisturbed.handled; ++message)
    EXPECT_EQ(run_with_restart_after(message).digest, undisturbed.digest) << "restart after message " << message;
}

TEST(CoordinatorRestart, KeepsAccountsAndHistory) {
  Simulation simulation(toy_config());
  for (int i = 0; i < 3; ++i) simulation.add_worker(10);
  ASSERT_TRUE(simulation.run_until([&] { return simulation.status().round == 6; }));
  simulation.coordinator().record_evaluation(4, 0.5);
  const RunStatus before = simulation.status();
  const Digest digest = simulation.digest();
  simulation.restart();
  const RunStatus after = simulation.status();
  EXPECT_EQ(simulation.digest(), digest);
  EXPECT_EQ(after.run_id, before.run_id);
  EXPECT_EQ(after.round, before.round);
  EXPECT_EQ(after.tokens, before.tokens);
  ASSERT_EQ(after.history.size(), before.history.size());
  EXPECT_EQ(after.history[4].validation_loss, 0.5);
  ASSERT_EQ(after.nodes.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(after.nodes[i].id, before.nodes[i].id);
    EXPECT_EQ(after.nodes[i].tokens, before.nodes[i].tokens);
    EXPECT_EQ(after.nodes[i].name, before.nodes[i].name);
    EXPECT_GT(after.nodes[i].bytes_in, before.nodes[i].bytes_in / 2);
  }
  ASSERT_TRUE(simulation.run());
  simulation.restart();
  EXPECT_TRUE(simulation.coordinator().finished());
}

TEST(CoordinatorRestart, WorkersThatDoNotComeBackAreLost) {
  RunConfig config = toy_config();
  config.start_workers = 2;
  Simulation simulation(config);
  simulation.add_worker(10);
  simulation.add_worker(10);
  auto& gone = simulation.add_worker(10);
  ASSERT_TRUE(simulation.run_until([&] { return simulation.status().round == 4; }));
  simulation.restart();
  simulation.kill(gone);
  ASSERT_TRUE(simulation.run());
  EXPECT_EQ(simulation.node(gone).state, NodeState::lost);
  EXPECT_EQ(simulation.status().tokens, config.manifest.total_tokens());
}

TEST(CoordinatorRestart, AnotherManifestIsRefused) {
  testing::TemporaryFolder folder;
  const std::vector<std::byte> tokens = testing::toy_tokens();
  const auto zeros = []() -> Result<std::vector<float>> { return std::vector<float>(testing::kToyParameters); };
  const auto open = [&](const RunConfig& config) {
    auto store = Store::open(folder.path());
    EXPECT_TRUE(store.ok());
    return Coordinator::open(config, std::move(*store), tokens, zeros, {}, 0).status();
  };
  RunConfig config = toy_config();
  ASSERT_TRUE(open(config).ok());
  ASSERT_TRUE(open(config).ok());
  config.heartbeat_timeout_s = 9;  // how it is conducted may change
  ASSERT_TRUE(open(config).ok());
  config.manifest.seed = 8;  // what it is may not
  EXPECT_EQ(open(config).code(), Code::invalid_argument);
}

TEST(CoordinatorRestart, AModelOfAnotherSizeIsRefused) {
  testing::TemporaryFolder folder;
  const std::vector<std::byte> tokens = testing::toy_tokens();
  auto coordinator = Coordinator::open(
      toy_config(), std::move(*Store::open(folder.path())), tokens,
      []() -> Result<std::vector<float>> { return std::vector<float>(3); }, {}, 0);
  EXPECT_EQ(coordinator.status().code(), Code::invalid_argument);
  // Nothing was begun: the right model may still start here.
  coordinator = Coordinator::open(
      toy_config(), std::move(*Store::open(folder.path())), tokens,
      []() -> Result<std::vector<float>> { return std::vector<float>(testing::kToyParameters); }, {}, 0);
  EXPECT_TRUE(coordinator.ok());
}

TEST(CoordinatorRestart, AStoreThatCannotBeWrittenStopsTheRunAndLosesNothing) {
  Simulation simulation(toy_config());
  for (int i = 0; i < 3; ++i) simulation.add_worker(10);
  ASSERT_TRUE(simulation.run_until([&] { return simulation.status().round == 4; }));
  const auto blobs = simulation.folder() / "blobs";
  const auto aside = simulation.folder() / "aside";
  std::filesystem::rename(blobs, aside);
  EXPECT_FALSE(simulation.run(30));
  EXPECT_FALSE(simulation.coordinator().failure().ok());
  const auto answer = simulation.ask(simulation.worker(0).id, "status", {});
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status().code(), Code::unavailable);
  std::filesystem::rename(aside, blobs);
  simulation.restart();
  // The workers were told, and are started again.
  for (size_t i = 0; i < 3; ++i) {
    simulation.kill(simulation.worker(i));
    simulation.start_process(simulation.worker(i));
  }
  ASSERT_TRUE(simulation.run());
  EXPECT_EQ(simulation.status().tokens, toy_config().manifest.total_tokens());
}

}  // namespace
}  // namespace sporkle::run
