// A run whose updates are compressed in each of the forms.
#include <gtest/gtest.h>

#include "run/simulation_testing.h"

namespace sporkle::run {
namespace {

using testing::Simulation;
using testing::toy_config;

struct Outcome {
  Digest digest;
  double loss;
  std::vector<RoundRecord> history;
};

Outcome run_with(const std::string& compression, const std::vector<double>& latencies, bool restarts = false) {
  RunConfig config = toy_config();
  config.manifest.total_steps = 1500;
  config.compression = compression;
  Simulation simulation(config);
  for (const double latency : latencies) simulation.add_worker(10, latency);
  if (restarts)
    simulation.after_handle = [&](uint64_t handled) {
      if (handled == 500) simulation.restart();
    };
  EXPECT_TRUE(simulation.run()) << compression;
  return {simulation.digest(), simulation.loss(), simulation.status().history};
}

// Who joins first, and whose update comes first, changes no bit; every round says how its updates came.
TEST(RunCompression, EveryFormTrainsAndDoesNotDependOnTiming) {
  const double plain = run_with("none", {0.01, 0.02, 0.03}).loss;
  EXPECT_LT(plain, 0.01);
  for (const train::Compression form : train::kCompressions) {
    const std::string name(train::compression_name(form));
    const Outcome one = run_with(name, {0.01, 0.02, 0.03}), other = run_with(name, {0.09, 0.05, 0.001});
    EXPECT_EQ(one.digest, other.digest) << name;
    // The bar, where the loss begins at 0.38: within 0.002 of the uncompressed run, and within 0.01 for topk, which
    // here sends 11 of 700 values a round of gradients that are mostly noise.
    EXPECT_LT(one.loss, plain + (form == train::Compression::topk ? 0.01 : 0.002)) << name;
    for (const RoundRecord& round : one.history) {
      EXPECT_EQ(round.compression, name) << round.round;
      EXPECT_EQ(round.update_bytes, 3 * train::compressed_size_bytes(form, testing::kToyParameters)) << round.round;
    }
  }
}

TEST(RunCompression, TheRecordOutlivesARestart) {
  const Outcome outcome = run_with("int4", {0.01, 0.02, 0.03}, true);
  ASSERT_GT(outcome.history.size(), 100u);
  for (const RoundRecord& round : outcome.history) EXPECT_EQ(round.compression, "int4") << round.round;
}

TEST(RunCompression, AnotherFormThanTheLeasesIsRefused) {
  RunConfig config = toy_config();
  config.compression = "sign";
  Simulation simulation(config);
  simulation.add_worker(10);
  simulation.add_worker(10);
  auto& bad = simulation.add_worker(10);
  bad.tamper = [](mesh::Message& m) {
    m.payload = *train::compress(train::Compression::none, std::vector<float>(testing::kToyParameters, 0.01f));
  };
  std::string reason;
  simulation.on_event = [&](const Event& event) {
    if (event.kind == EventKind::update_rejected) reason = event.message;
  };
  ASSERT_TRUE(simulation.run());
  EXPECT_NE(reason.find("compressed as none where the lease asks for sign"), std::string::npos) << reason;
}

TEST(RunCompression, AnUnknownNameIsRefused) {
  RunConfig config = toy_config();
  config.compression = "int9";
  EXPECT_NE(config.validate().message().find("\"int9\""), std::string::npos) << config.validate().message();
  config.compression = "auto";
  EXPECT_TRUE(config.validate().ok());
}

// With `auto`, a worker behind a slow link goes over to a smaller form, and the rounds say so.
TEST(RunCompression, AutoFollowsTheLink) {
  RunConfig config = toy_config();
  config.manifest.parameter_count = 200'000;
  config.manifest.total_steps = 40;
  config.compression = "auto";
  Simulation simulation(config);
  for (int i = 0; i < 2; ++i) simulation.add_worker(10);
  simulation.add_worker(10).upload_bytes_per_second = 2e5;  // a second for 8 bits; training takes half of one
  ASSERT_TRUE(simulation.run());
  const auto history = simulation.status().history;
  EXPECT_EQ(history.front().compression, "int8");
  EXPECT_EQ(history.back().compression, "2 int8, 1 topk");
  EXPECT_LT(history.back().update_bytes, history.front().update_bytes);
  EXPECT_LT(simulation.loss(), 0.05);
}

}  // namespace
}  // namespace sporkle::run
