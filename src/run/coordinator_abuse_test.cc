// Peers that are broken or hostile: whatever they send, the run goes on.
#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "run/coordinator.h"
#include "run/run.pb.h"
#include "run/simulation_testing.h"

namespace sporkle::run {
namespace {

using testing::node_id;
using testing::Simulation;
using testing::toy_config;

template <typename Proto>
mesh::Message message(const Proto& proto) {
  return {proto.SerializeAsString(), {}};
}

Code code(const std::optional<Result<mesh::Message>>& answer) {
  return answer ? answer->status().code() : Code::internal;
}

// The scales of an update lie behind its header of 16 bytes.
void scale_update(mesh::Message& submission, float factor) {
  for (size_t block = 0; block < (testing::kToyParameters + 255) / 256; ++block) {
    float scale;
    std::memcpy(&scale, submission.payload.data() + 16 + block * 4, 4);
    scale *= factor;
    std::memcpy(submission.payload.data() + 16 + block * 4, &scale, 4);
  }
}

void edit_report(mesh::Message& submission, const std::function<void(proto::SubmitRequest&)>& edit) {
  proto::SubmitRequest report;
  ASSERT_TRUE(report.ParseFromString(submission.body));
  edit(report);
  submission.body = report.SerializeAsString();
}

// A run of three honest workers and one whose submissions are tampered with.
void expect_rejected(const std::function<void(mesh::Message&)>& tamper, const char* reason) {
  RunConfig config = toy_config();
  config.start_workers = 4;
  Simulation simulation(config);
  for (int i = 0; i < 3; ++i) simulation.add_worker(10);
  auto& bad = simulation.add_worker(10);
  std::vector<std::string> reasons;
  simulation.on_event = [&](const Event& event) {
    if (event.kind == EventKind::update_rejected) {
      EXPECT_EQ(event.node, bad.id.short_id());
      reasons.push_back(event.message);
    }
  };
  ASSERT_TRUE(simulation.run_until([&] { return simulation.status().round == 3; }));
  bad.tamper = tamper;
  ASSERT_TRUE(simulation.run());
  ASSERT_FALSE(reasons.empty());
  EXPECT_NE(reasons[0].find(reason), std::string::npos) << reasons[0];
  EXPECT_GE(bad.verdicts["rejected"], 3);
  EXPECT_EQ(simulation.node(bad).rejected, reasons.size());
  EXPECT_EQ(simulation.node(bad).reports, 3u);
  EXPECT_LT(simulation.loss(), 0.01);
  EXPECT_EQ(simulation.status().tokens, config.manifest.total_tokens());
}

TEST(CoordinatorAbuse, NaNIsRejected) {
  expect_rejected([](mesh::Message& m) { scale_update(m, std::numeric_limits<float>::quiet_NaN()); }, "not finite");
}
TEST(CoordinatorAbuse, InfinityIsRejected) {
  expect_rejected([](mesh::Message& m) { scale_update(m, std::numeric_limits<float>::infinity()); }, "not finite");
}
TEST(CoordinatorAbuse, AnotherShapeIsRejected) {
  expect_rejected(
      [](mesh::Message& m) { m.payload = *train::compress(train::Compression::int8, std::vector<float>(699, 0.1f)); },
      "699 values where 700 belong");
}
TEST(CoordinatorAbuse, NoPayloadIsRejected) {
  expect_rejected([](mesh::Message& m) { m.payload.clear(); }, "not a compressed tensor");
}
TEST(CoordinatorAbuse, AThousandfoldUpdateIsRejected) {
  expect_rejected([](mesh::Message& m) { scale_update(m, 1000); }, "times as long as usual");
}
TEST(CoordinatorAbuse, MoreTokensThanStepsCanHoldAreRejected) {
  expect_rejected([](mesh::Message& m) { edit_report(m, [](auto& r) { r.set_tokens(1ull << 60); }); }, "claims");
}
TEST(CoordinatorAbuse, MoreStepsThanLeasedAreRejected) {
  expect_rejected([](mesh::Message& m) { edit_report(m, [](auto& r) { r.set_steps(1'000'000); }); }, "on a lease of");
}
TEST(CoordinatorAbuse, ALossThatIsNotFiniteIsRejected) {
  expect_rejected([](mesh::Message& m) { edit_report(m, [](auto& r) { r.set_mean_loss(std::nan("")); }); }, "loss");
}

TEST(CoordinatorAbuse, AThousandfoldUpdateInTheFirstRoundIsLeftOutAtItsEnd) {
  RunConfig config = toy_config();
  config.start_workers = 4;
  Simulation simulation(config);
  for (int i = 0; i < 3; ++i) simulation.add_worker(10);
  auto& bad = simulation.add_worker(1000);  // the first to report: nothing to compare with
  bad.tamper = [](mesh::Message& m) { scale_update(m, 1000); };
  ASSERT_TRUE(simulation.run());
  EXPECT_EQ(simulation.node(bad).reports, 0u);
  EXPECT_GE(simulation.node(bad).rejected, 2u);
  EXPECT_LT(simulation.loss(), 0.01);
}

TEST(CoordinatorAbuse, AHonestWorkerGoesOnWhenAPoisonedMeasureIsAllThereIs) {
  RunConfig config = toy_config();
  config.start_workers = 1;
  Simulation simulation(config);
  auto& bad = simulation.add_worker(10);
  bad.tamper = [](mesh::Message& m) { scale_update(m, 1e-4f); };
  ASSERT_TRUE(simulation.run_until([&] { return simulation.status().round == 4; }));
  simulation.kill(bad);
  auto& honest = simulation.add_worker(10);  // all of its updates look ten thousand times too long
  ASSERT_TRUE(simulation.run(600));
  EXPECT_GE(simulation.node(honest).rejected, 1u);
  EXPECT_LT(simulation.loss(), 0.02);
}

TEST(CoordinatorAbuse, AWorkerThatBoastsOfItsSpeedDoesNotStopTheRun) {
  RunConfig config = toy_config();
  config.inner_steps = "10";
  Simulation simulation(config);
  for (int i = 0; i < 3; ++i) simulation.add_worker(10);
  auto& liar = simulation.add_worker(0.001);
  liar.core->set_tokens_per_second(1e9);
  ASSERT_TRUE(simulation.run(600));
  EXPECT_EQ(simulation.node(liar).reports, 0u);
  EXPECT_LT(simulation.loss(), 0.05);
}

TEST(CoordinatorAbuse, RepeatedAndForeignSubmissions) {
  RunConfig config = toy_config();
  config.inner_steps = "20";
  Simulation simulation(config);
  for (int i = 0; i < 3; ++i) simulation.add_worker(i == 0 ? 30 : 10);
  auto& first = simulation.worker(0);
  mesh::Message submission;
  first.tamper = [&](mesh::Message& m) {
    if (submission.body.empty()) submission = m;
  };
  ASSERT_TRUE(simulation.run_until([&] { return first.verdicts["accepted"] == 1; }));
  const auto verdict = [&](const mesh::NodeId& node) {
    proto::SubmitReply reply;
    const auto answer = simulation.ask(node, "submit", submission);
    EXPECT_TRUE(answer && answer->ok());
    EXPECT_TRUE(reply.ParseFromString((*answer)->body));
    return reply.verdict();
  };
  // Again while the round is open, and by another node.
  EXPECT_EQ(verdict(first.id), proto::SubmitReply::ACCEPTED);
  EXPECT_EQ(verdict(simulation.worker(1).id), proto::SubmitReply::LATE);
  ASSERT_TRUE(simulation.run_until([&] { return simulation.status().round == 1; }));
  // And after it.
  EXPECT_EQ(verdict(first.id), proto::SubmitReply::ACCEPTED);
  EXPECT_EQ(simulation.node(first).reports, 1u);
  ASSERT_TRUE(simulation.run());
  EXPECT_EQ(simulation.status().tokens, config.manifest.total_tokens());
}

TEST(CoordinatorAbuse, BadRequestsGetTheirError) {
  Simulation simulation(toy_config());
  simulation.add_worker(10);
  ASSERT_TRUE(simulation.run_until([&] { return simulation.now_s() > 1; }));
  const mesh::NodeId member = simulation.worker(0).id;
  const mesh::NodeId stranger = node_id(50);
  for (const char* method : {"parameters", "next_work", "shards", "heartbeat", "submit", "leave", "nonsense"})
    EXPECT_EQ(code(simulation.ask(stranger, method, {})), Code::not_found) << method;
  for (const char* method : {"parameters", "next_work", "shards", "heartbeat", "submit", "hello", "leave"})
    EXPECT_EQ(code(simulation.ask(member, method, {"\xff\xff\xff", {}})), Code::corrupt_data) << method;
  EXPECT_EQ(code(simulation.ask(member, "nonsense", {})), Code::unsupported);
  EXPECT_EQ(code(simulation.ask(member, "submit", {})), Code::invalid_argument);

  proto::HelloRequest hello;
  hello.set_protocol(99);
  EXPECT_EQ(code(simulation.ask(stranger, "hello", message(hello))), Code::unsupported);

  proto::ParametersRequest parameters;
  parameters.set_offset(1ull << 62);
  EXPECT_EQ(code(simulation.ask(member, "parameters", message(parameters))), Code::invalid_argument);

  proto::ShardsRequest shards;
  shards.add_shards(1ull << 40);
  EXPECT_EQ(code(simulation.ask(member, "shards", message(shards))), Code::not_found);
  for (int i = 0; i < 10'000; ++i) shards.add_shards(0);
  EXPECT_EQ(code(simulation.ask(member, "shards", message(shards))), Code::invalid_argument);

  proto::NextWorkRequest work;
  work.set_session(12345);
  EXPECT_EQ(code(simulation.ask(member, "next_work", message(work))), Code::permission_denied);
}

TEST(CoordinatorAbuse, AFloodOfKeysMeetsALimit) {
  RunConfig config = toy_config();
  config.max_workers = 5;
  Simulation simulation(config);
  proto::HelloRequest hello;
  hello.set_protocol(1);
  hello.set_name("bell \x07 and escape \x1b[31m");
  for (unsigned i = 0; i < 5; ++i) EXPECT_EQ(code(simulation.ask(node_id(i), "hello", message(hello))), Code::ok);
  EXPECT_EQ(code(simulation.ask(node_id(5), "hello", message(hello))), Code::unavailable);
  EXPECT_EQ(code(simulation.ask(node_id(2), "hello", message(hello))), Code::ok);
  for (const NodeStatus& node : simulation.status().nodes)
    for (const char c : node.name) EXPECT_GE(static_cast<unsigned char>(c), 0x20);
}

TEST(CoordinatorAbuse, RandomBytesDoNoHarm) {
  Simulation simulation(toy_config());
  for (int i = 0; i < 3; ++i) simulation.add_worker(10);
  ASSERT_TRUE(simulation.run_until([&] { return simulation.status().round == 2; }));
  std::mt19937_64 random(11);
  const char* methods[] = {"hello", "parameters", "next_work", "shards", "heartbeat", "submit", "status"};
  for (int i = 0; i < 2000; ++i) {
    mesh::Message garbage;
    garbage.body.resize(random() % 60);
    for (char& c : garbage.body) c = static_cast<char>(random());
    garbage.payload.resize(random() % 900);
    for (std::byte& b : garbage.payload) b = static_cast<std::byte>(random());
    simulation.ask(node_id(70), methods[random() % 7], std::move(garbage));
  }
  ASSERT_TRUE(simulation.run());
  EXPECT_LT(simulation.loss(), 0.01);
}

}  // namespace
}  // namespace sporkle::run
