// Runs of simulated workers: speed, loss, lateness, and the bits that come out.
#include "run/coordinator.h"

#include <gtest/gtest.h>

#include <numeric>

#include "run/simulation_testing.h"

namespace sporkle::run {
namespace {

using testing::Simulation;
using testing::toy_config;

TEST(Coordinator, ARunConverges) {
  Simulation simulation(toy_config());
  for (int i = 0; i < 3; ++i) simulation.add_worker(10);
  const double before = simulation.loss();
  ASSERT_TRUE(simulation.run());
  EXPECT_LT(simulation.loss(), before / 100);
  const RunStatus status = simulation.status();
  EXPECT_EQ(status.phase, RunPhase::finished);
  EXPECT_EQ(status.tokens, toy_config().manifest.total_tokens());
  EXPECT_EQ(status.step, 60.0);
  EXPECT_EQ(status.workers_joined, 3u);
  EXPECT_EQ(status.workers_lost, 0u);
  EXPECT_EQ(status.history.size(), status.round);
  EXPECT_EQ(status.history[0].inner_steps, 1u);
  EXPECT_EQ(status.history[2].inner_steps, 5u);
  EXPECT_LT(status.history.back().train_loss, status.history.front().train_loss);
  for (const NodeStatus& node : status.nodes) EXPECT_EQ(node.reports, status.round);
  EXPECT_EQ(simulation.count(EventKind::finished), 1);
  EXPECT_EQ(simulation.count(EventKind::round_closed), static_cast<int>(status.round));
}

TEST(Coordinator, EverybodyHasTheSameBits) {
  Simulation simulation(toy_config());
  for (int i = 0; i < 3; ++i) simulation.add_worker(10 + i);
  ASSERT_TRUE(simulation.run_until([&] { return simulation.status().round == 5; }));
  ASSERT_TRUE(simulation.run_until([&] {
    for (int i = 0; i < 3; ++i)
      if (simulation.worker(static_cast<size_t>(i)).core->version() != 5) return false;
    return true;
  }));
  for (int i = 0; i < 3; ++i) {
    const auto parameters = simulation.worker(static_cast<size_t>(i)).core->parameters();
    EXPECT_EQ(sha256(std::as_bytes(parameters)), simulation.digest());
  }
}

TEST(Coordinator, MomentumCanBeSwitchedOnLater) {
  RunConfig config = toy_config();
  config.outer = {{0, {1.0f, 0.0f}}, {4, {0.7f, 0.5f}}};
  Simulation simulation(config), plain(toy_config());
  for (int i = 0; i < 3; ++i) {
    simulation.add_worker(10);
    plain.add_worker(10);
  }
  ASSERT_TRUE(simulation.run());
  ASSERT_TRUE(plain.run());
  EXPECT_NE(simulation.digest(), plain.digest());
  EXPECT_LT(simulation.loss(), 0.01);
}

TEST(Coordinator, ASlowNodeGetsFewerStepsAndHoldsNothingUp) {
  RunConfig config = toy_config();
  config.inner_steps = "20";
  config.manifest.total_steps = 200;
  Simulation simulation(config);
  auto& fast = simulation.add_worker(10);
  auto& other = simulation.add_worker(10);
  auto& slow = simulation.add_worker(1);
  ASSERT_TRUE(simulation.run());
  const uint64_t fast_steps = simulation.node(fast).steps;
  const uint64_t slow_steps = simulation.node(slow).steps;
  EXPECT_NEAR(static_cast<double>(fast_steps) / static_cast<double>(slow_steps), 10.0, 2.0);
  EXPECT_EQ(simulation.node(other).leases_lost + simulation.node(slow).leases_lost, 0u);
  // 60 steps at 21 steps a second: about 2.9 s a round, not the 20 s that a third of the steps would take the slow one.
  for (const RoundRecord& round : simulation.status().history) EXPECT_LT(round.seconds, 3.6);
}

TEST(Coordinator, AHopelesslySlowNodeHoldsNothingUp) {
  RunConfig config = toy_config();
  config.start_workers = 4;
  Simulation simulation(config);
  for (int i = 0; i < 3; ++i) simulation.add_worker(10);
  auto& hopeless = simulation.add_worker(0.01);  // a single step takes it 100 s
  ASSERT_TRUE(simulation.run(60));
  EXPECT_EQ(simulation.node(hopeless).leases_lost, 0u);
}

TEST(Coordinator, AWorkerThatBecomesSlowGetsLessFromThenOn) {
  RunConfig config = toy_config();
  config.inner_steps = "20";
  config.manifest.total_steps = 400;
  Simulation simulation(config);
  simulation.add_worker(10);
  simulation.add_worker(10);
  auto& worker = simulation.add_worker(10);
  ASSERT_TRUE(simulation.run_until([&] { return simulation.status().round == 4; }));
  const uint64_t before = simulation.node(worker).steps;
  worker.steps_per_second = 1;  // ten times slower: misses its deadline first
  ASSERT_TRUE(simulation.run_until([&] { return simulation.status().round == 16; }));
  EXPECT_NEAR(static_cast<double>(before), 80, 2);
  EXPECT_GE(simulation.node(worker).leases_lost, 1u);
  EXPECT_GE(simulation.node(worker).reports, 8u);
  const RunStatus status = simulation.status();
  EXPECT_LT(status.history.back().seconds, 5.0);
  EXPECT_EQ(status.history.back().reports, 3u);
}

TEST(Coordinator, AWorkerThatVanishesWhileComputingIsGoneWithoutHarm) {
  RunConfig config = toy_config();
  config.inner_steps = "20";
  config.manifest.total_steps = 200;
  Simulation simulation(config);
  simulation.add_worker(10);
  simulation.add_worker(10);
  auto& victim = simulation.add_worker(10);
  ASSERT_TRUE(simulation.run_until([&] { return simulation.status().round == 3 && victim.is_training; }));
  simulation.kill(victim);
  ASSERT_TRUE(simulation.run());
  const RunStatus status = simulation.status();
  EXPECT_EQ(status.workers_lost, 1u);
  EXPECT_EQ(simulation.count(EventKind::worker_lost), 1);
  EXPECT_EQ(simulation.node(victim).state, NodeState::lost);
  EXPECT_EQ(status.tokens, config.manifest.total_tokens());
  EXPECT_EQ(status.history[3].reports, 2u);
  EXPECT_LT(status.history[3].seconds, 2 + config.disconnect_grace_s + 1);
  EXPECT_LT(simulation.loss(), 0.01);
}

TEST(Coordinator, AWorkerThatVanishesBeforeSubmittingIsGoneWithoutHarm) {
  Simulation simulation(toy_config());
  simulation.add_worker(10);
  simulation.add_worker(10);
  auto& victim = simulation.add_worker(10);
  victim.die_before_submit = true;
  ASSERT_TRUE(simulation.run());
  EXPECT_EQ(simulation.status().workers_lost, 1u);
  EXPECT_EQ(simulation.node(victim).reports, 0u);
  EXPECT_EQ(simulation.status().tokens, toy_config().manifest.total_tokens());
}

TEST(Coordinator, AWorkerMayJoinInMidRun) {
  RunConfig config = toy_config();
  config.inner_steps = "20";
  config.manifest.total_steps = 300;
  config.start_workers = 2;
  Simulation simulation(config);
  simulation.add_worker(10);
  simulation.add_worker(10);
  ASSERT_TRUE(simulation.run_until([&] { return simulation.status().round == 2; }));
  auto& joiner = simulation.add_worker(10);
  ASSERT_TRUE(simulation.run_until([&] { return simulation.status().round == 4; }));
  // The round had just begun: the newcomer takes part at once.
  EXPECT_EQ(simulation.status().history[2].reports, 3u);
  EXPECT_EQ(simulation.status().history[3].reports, 3u);
  ASSERT_TRUE(simulation.run());
  EXPECT_TRUE(joiner.failure.ok());
  EXPECT_GT(simulation.node(joiner).reports, 3u);
  EXPECT_EQ(simulation.status().tokens, config.manifest.total_tokens());
}

TEST(Coordinator, ARestartedWorkerProcessGetsNewWork) {
  RunConfig config = toy_config();
  config.inner_steps = "20";
  config.manifest.total_steps = 200;
  Simulation simulation(config);
  simulation.add_worker(10);
  simulation.add_worker(10);
  auto& worker = simulation.add_worker(10);
  ASSERT_TRUE(simulation.run_until([&] { return simulation.status().round == 3 && worker.is_training; }));
  simulation.kill(worker);
  ASSERT_TRUE(simulation.run_until([&] { return simulation.status().round == 4; }));
  simulation.start_process(worker);
  ASSERT_TRUE(simulation.run());
  EXPECT_TRUE(worker.failure.ok());
  EXPECT_GT(simulation.node(worker).reports, 5u);
  EXPECT_EQ(simulation.status().workers_joined, 3u);
}

TEST(Coordinator, AStoppedAndContinuedWorkerGoesOn) {
  RunConfig config = toy_config();
  config.inner_steps = "20";
  config.manifest.total_steps = 600;
  Simulation simulation(config);
  simulation.add_worker(10);
  simulation.add_worker(10);
  auto& sleeper = simulation.add_worker(10);
  ASSERT_TRUE(simulation.run_until([&] { return simulation.status().round == 3 && sleeper.is_training; }));
  const uint64_t reports = simulation.node(sleeper).reports;
  simulation.freeze(sleeper, 20);
  const double asleep = simulation.now_s();
  ASSERT_TRUE(simulation.run_until([&] { return simulation.now_s() > asleep + 15; }));
  EXPECT_EQ(simulation.node(sleeper).state, NodeState::lost);
  EXPECT_GE(simulation.status().round, 5u) << "the others did not go on";
  ASSERT_TRUE(simulation.run());
  EXPECT_TRUE(sleeper.failure.ok()) << sleeper.failure.to_string();
  EXPECT_GT(simulation.node(sleeper).reports, reports + 3);
  EXPECT_GE(sleeper.verdicts["lost"] + sleeper.verdicts["late"], 1);
  EXPECT_LT(simulation.loss(), 0.01);
}

// Its submission takes so long that it counts as lost and the round goes on without it. Gives the worker's error
// feedback after that, and once the run is over.
std::pair<double, double> late_update(uint32_t staleness_rounds) {
  RunConfig config = toy_config();
  config.inner_steps = "5";
  config.manifest.total_steps = 300;
  config.staleness_rounds = staleness_rounds;
  Simulation simulation(config);
  simulation.add_worker(10);
  simulation.add_worker(10);
  auto& worker = simulation.add_worker(10);
  EXPECT_TRUE(simulation.run_until([&] { return simulation.status().round == 1 && worker.is_training; }));
  worker.latency_s = 8;
  EXPECT_TRUE(simulation.run_until([&] { return worker.verdicts["late"] == 1; }));
  EXPECT_EQ(simulation.node(worker).late, 1u);
  const double folded = train::l2_norm(worker.core->feedback().residual());
  worker.latency_s = 0.01;
  EXPECT_TRUE(simulation.run());
  EXPECT_EQ(simulation.count(EventKind::update_late), 1);
  EXPECT_GT(simulation.node(worker).reports, 5u);
  EXPECT_LT(simulation.loss(), 0.01);
  return {folded, train::l2_norm(worker.core->feedback().residual())};
}

TEST(Coordinator, ALateUpdateIsFoldedIntoErrorFeedback) {
  const auto [folded, at_the_end] = late_update(1000);
  EXPECT_GT(folded, 1.0) << "nothing was folded";
  EXPECT_LT(at_the_end, 0.1) << "what was folded has not been sent";
}

TEST(Coordinator, AnUpdateThatIsTooLateIsDropped) {
  const auto [folded, at_the_end] = late_update(2);
  EXPECT_LT(folded, 0.1);
  EXPECT_LT(at_the_end, 0.1);
}

TEST(Coordinator, LostShardsAreLeasedAgainAndNoneTwice) {
  RunConfig config = toy_config();
  config.inner_steps = "10";
  config.manifest.total_steps = 90;
  Simulation simulation(config, 3);
  std::map<std::string, std::vector<uint64_t>> leases;
  for (int i = 0; i < 3; ++i) simulation.add_worker(10);
  auto& victim = simulation.worker(1);
  ASSERT_TRUE(simulation.run_until([&] { return simulation.status().round == 2 && victim.is_training; }));
  simulation.kill(victim);
  ASSERT_TRUE(simulation.run());
  // What was consumed are whole units, two a step; with none leased twice and none left out, the pool has handed out
  // exactly the first 2 * 270 units, the lost ones included.
  simulation.restart();
  auto pool = ShardPool::create(testing::toy_tokens(), 2, 32, 7);
  ASSERT_TRUE(pool.ok());
  const RunStatus status = simulation.status();
  EXPECT_EQ(status.tokens, config.manifest.total_tokens());
  uint64_t steps = 0;
  for (const NodeStatus& node : status.nodes) steps += node.steps;
  EXPECT_EQ(steps, 270u);
  EXPECT_EQ(simulation.coordinator().units_unfinished(), 0u);
  EXPECT_EQ(simulation.coordinator().units_handed_out(), 540u);
}

TEST(Coordinator, ArrivalOrderDoesNotChangeTheBits) {
  std::vector<Digest> digests;
  for (const std::vector<double>& latencies :
       {std::vector<double>{0.01, 0.02, 0.03}, {0.03, 0.02, 0.01}, {0.02, 0.3, 0.01}}) {
    Simulation simulation(toy_config());
    const double speeds[] = {10, 7, 13};
    for (size_t i = 0; i < 3; ++i) simulation.add_worker(speeds[i], latencies[i]);
    ASSERT_TRUE(simulation.run());
    digests.push_back(simulation.digest());
  }
  EXPECT_EQ(digests[0], digests[1]);
  EXPECT_EQ(digests[0], digests[2]);
}

TEST(Coordinator, AQuorumIsWaitedFor) {
  RunConfig config = toy_config();
  config.quorum = 3;
  Simulation simulation(config);
  simulation.add_worker(10);
  simulation.add_worker(10);
  auto& victim = simulation.add_worker(10);
  victim.die_before_submit = true;
  ASSERT_TRUE(simulation.run());
  // Two workers make up a quorum of three with a second lease.
  for (const RoundRecord& round : simulation.status().history) EXPECT_GE(round.reports, 3u);
}

TEST(Coordinator, WithoutWorkersItWaits) {
  Simulation simulation(toy_config());
  simulation.add_worker(10);
  simulation.add_worker(10);
  EXPECT_FALSE(simulation.run(60)) << "started with two workers of three";
  EXPECT_EQ(simulation.status().phase, RunPhase::waiting);
  auto& third = simulation.add_worker(10);
  ASSERT_TRUE(simulation.run_until([&] { return simulation.status().round == 2; }));
  for (size_t i = 0; i < 3; ++i) simulation.kill(simulation.worker(i));
  EXPECT_FALSE(simulation.run(60));
  simulation.start_process(third);
  ASSERT_TRUE(simulation.run());
}

TEST(Coordinator, ManyWorkersOnABadNetwork) {
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    RunConfig config = toy_config();
    config.manifest.nominal_workers = 30;
    config.manifest.total_steps = 100;
    config.inner_steps = "10";
    config.start_workers = 20;
    Simulation simulation(config, seed);
    simulation.drop_probability = 0.01;
    std::mt19937_64 random(seed);
    for (int i = 0; i < 30; ++i)
      simulation.add_worker(2 + static_cast<double>(random() % 20), 0.005 + static_cast<double>(random() % 100) / 1000);
    for (int i = 0; i < 10; ++i) {
      const double when = 1 + static_cast<double>(random() % 20);
      auto& worker = simulation.worker(random() % 30);
      switch (random() % 3) {
        case 0:
          simulation.schedule(when, [&] { simulation.kill(worker); });
          break;
        case 1:
          simulation.schedule(when, [&] { simulation.freeze(worker, 15); });
          break;
        default:
          simulation.schedule(when, [&] { simulation.kill(worker); });
          simulation.schedule(when + 3, [&] { simulation.start_process(worker); });
      }
    }
    simulation.schedule(7, [&] { simulation.restart(); });
    ASSERT_TRUE(simulation.run()) << "seed " << seed;
    EXPECT_LT(simulation.loss(), 0.02) << "seed " << seed;
    EXPECT_EQ(simulation.status().tokens, config.manifest.total_tokens()) << "seed " << seed;
    for (size_t i = 0; i < 30; ++i)
      EXPECT_TRUE(simulation.worker(i).failure.ok()) << simulation.worker(i).failure.to_string();
  }
}

TEST(Coordinator, TheSameSeedReplaysTheSameRun) {
  Digest digests[2];
  for (Digest& digest : digests) {
    Simulation simulation(toy_config(), 9);
    simulation.drop_probability = 0.05;
    for (int i = 0; i < 5; ++i) simulation.add_worker(5 + i);
    ASSERT_TRUE(simulation.run());
    digest = simulation.digest();
  }
  EXPECT_EQ(digests[0], digests[1]);
}

TEST(Coordinator, MovesFarFewerBytesThanAllReduce) {
  RunConfig config = toy_config();
  config.manifest.parameter_count = 50'000;
  config.manifest.total_steps = 600;
  config.manifest.nominal_workers = 4;
  config.start_workers = 4;
  config.inner_steps = "1x2,5x4,20";
  Simulation simulation(config);
  for (int i = 0; i < 4; ++i) simulation.add_worker(10);
  ASSERT_TRUE(simulation.run());
  const uint64_t all_reduce = all_reduce_bytes_per_node(50'000, 4, 600);
  for (const NodeStatus& node : simulation.status().nodes)
    EXPECT_GT(all_reduce / (node.bytes_in + node.bytes_out), 50u) << node.bytes_in << " + " << node.bytes_out;
}

TEST(Coordinator, StatusTravels) {
  Simulation simulation(toy_config());
  for (int i = 0; i < 3; ++i) simulation.add_worker(10);
  ASSERT_TRUE(simulation.run_until([&] { return simulation.status().round == 4; }));
  simulation.coordinator().record_evaluation(1, 0.75);
  const auto answer = simulation.ask(testing::node_id(99), "status", {});
  ASSERT_TRUE(answer && answer->ok());
  const auto status = decode_status((*answer)->body);
  ASSERT_TRUE(status.ok());
  EXPECT_EQ(status->round, 4u);
  EXPECT_EQ(status->run_id, simulation.coordinator().run_id());
  ASSERT_EQ(status->nodes.size(), 3u);
  EXPECT_EQ(status->nodes[0].short_id.size(), 8u);
  EXPECT_GT(status->nodes[0].bytes_in, 0u);
  EXPECT_EQ(status->history.at(1).validation_loss, 0.75);
  EXPECT_FALSE(status->history.at(2).validation_loss.has_value());
  EXPECT_EQ(decode_status("\xff\xff").status().code(), Code::corrupt_data);
  EXPECT_EQ(simulation.count(EventKind::worker_joined), 3);
}

}  // namespace
}  // namespace sporkle::run
