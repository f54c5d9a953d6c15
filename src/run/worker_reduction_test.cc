// Runs whose workers add up their updates among themselves, over real connections on this machine.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <optional>
#include <thread>

#include "run/coordinator_server.h"
#include "run/run.pb.h"
#include "run/simulation_testing.h"
#include "run/worker.h"

namespace sporkle::run {
namespace {

using namespace std::chrono_literals;
using testing::TemporaryFolder;
using testing::ToyReplica;

class Host : public ModelHost {
 public:
  explicit Host(size_t count) : count_(count) {}
  Result<std::vector<float>> initial_parameters() override { return std::vector<float>(count_, 0.0f); }
  Result<double> evaluate(std::span<const float> parameters) override { return ToyReplica::loss(parameters); }
  Result<std::string> save_checkpoint(std::span<const float>, const CheckpointInfo&) override {
    return std::string("checkpoint");
  }

 private:
  size_t count_;
};

// Every worker has one step in every round, whatever its speed: what is computed depends on who takes part alone.
RunConfig config_of(uint32_t workers, uint32_t rounds, const std::string& reduction, size_t parameters = 100'000) {
  RunConfig config = testing::toy_config();
  config.manifest.parameter_count = parameters;
  config.manifest.nominal_workers = workers;
  config.manifest.total_steps = rounds;
  config.inner_steps = "1";
  config.start_workers = workers;
  config.outer = {{0, {0.7f, 0.9f}}};
  config.heartbeat_interval_s = 0.05;
  config.heartbeat_timeout_s = 3;
  config.disconnect_grace_s = 0.3;
  config.long_poll_s = 1;
  config.reduction = reduction;
  return config;
}

ReplicaFactory replicas() {
  return [](const RunManifest& manifest) -> Result<std::unique_ptr<Replica>> {
    auto replica = std::make_unique<ToyReplica>(manifest.parameter_count);
    replica->tokens_per_step = manifest.tokens_per_step;
    replica->on_step = [] { std::this_thread::sleep_for(30ms); };
    return std::unique_ptr<Replica>(std::move(replica));
  };
}

class PeerRun {
 public:
  explicit PeerRun(const RunConfig& config)
      : config_(config), tokens_(testing::toy_tokens()), host_(config.manifest.parameter_count) {}

  void start() {
    CoordinatorServerOptions options;
    options.folder = folder_.path();
    options.server.host = "127.0.0.1";
    options.server.port = port_;
    options.addresses = {"127.0.0.1"};
    options.evaluate_every_rounds = options.checkpoint_every_rounds = 0;
    options.on_event = [this](const Event& event) {
      const std::lock_guard lock(mutex_);
      events_.push_back(event);
    };
    auto server = CoordinatorServer::start(config_, identity_, tokens_, host_, options);
    ASSERT_TRUE(server.ok()) << server.status().to_string();
    server_ = std::move(*server);
    port_ = server_->port();
  }
  void restart() {
    server_.reset();
    start();
  }
  CoordinatorServer& server() { return *server_; }
  const mesh::Identity& identity() const { return identity_; }

  std::vector<Event> events(EventKind kind) {
    const std::lock_guard lock(mutex_);
    std::vector<Event> found;
    for (const Event& event : events_)
      if (event.kind == kind) found.push_back(event);
    return found;
  }
  size_t rounds_by_peers() {
    const auto closed = events(EventKind::round_closed);
    return static_cast<size_t>(std::ranges::count_if(closed, [](const Event& e) { return e.by_peers; }));
  }
  bool wait_for(const std::function<bool()>& condition, std::chrono::seconds limit = 60s) {
    const auto until = std::chrono::steady_clock::now() + limit;
    while (!condition()) {
      if (std::chrono::steady_clock::now() > until) return false;
      std::this_thread::sleep_for(5ms);
    }
    return true;
  }
  std::string digest() { return to_hex(sha256(std::as_bytes(std::span(*server_->parameters())))); }

 private:
  const RunConfig config_;
  const std::vector<std::byte> tokens_;
  TemporaryFolder folder_;
  const mesh::Identity identity_ = *mesh::Identity::generate();
  Host host_;
  uint16_t port_ = 0;
  std::mutex mutex_;
  std::vector<Event> events_;
  std::unique_ptr<CoordinatorServer> server_;
};

class Workers {
 public:
  ~Workers() { stop(); }
  // Alters what a worker's channel carries; for liars.
  using Tamper = std::function<void(std::string_view method, mesh::Message& request)>;

  Worker& add(const mesh::RunLink& link, const mesh::Identity& identity, bool with_peers = true,
              Tamper tamper = nullptr) {
    WorkerOptions options;
    if (with_peers) options.reduction_identity = identity;
    auto connect = [link, identity, tamper]() -> Result<std::unique_ptr<mesh::Channel>> {
      SPORKLE_ASSIGN_OR_RETURN(std::unique_ptr<mesh::Client> client, mesh::Client::connect(link, identity, {}));
      return std::unique_ptr<mesh::Channel>(std::make_unique<Tampering>(std::move(client), tamper));
    };
    auto& worker = workers_.emplace_back(std::make_unique<Worker>(connect, replicas(), options));
    threads_.emplace_back([running = worker.get()] {
      const auto result = running->run();
      if (!result.ok()) ADD_FAILURE() << result.status().to_string();
    });
    return *worker;
  }
  void stop() {
    for (const auto& worker : workers_) worker->stop();
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

 private:
  class Tampering : public mesh::Channel {
   public:
    Tampering(std::unique_ptr<mesh::Client> client, Tamper tamper)
        : client_(std::move(client)), tamper_(std::move(tamper)) {}
    Result<mesh::Message> call(std::string_view method, mesh::Message request,
                               std::chrono::milliseconds timeout) override {
      if (tamper_) tamper_(method, request);
      return client_->call(method, std::move(request), timeout);
    }
    void close() override { client_->close(); }
    mesh::Traffic traffic() const override { return client_->traffic(); }

   private:
    const std::unique_ptr<mesh::Client> client_;
    const Tamper tamper_;
  };
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<std::thread> threads_;
};

struct Outcome {
  std::string digest;
  size_t rounds = 0, by_peers = 0;
  double bytes_per_round = 0;  // in and out of the coordinator, of the later half of the rounds
  double rounds_per_second = 0;
  RunStatus status;
};

Outcome run_once(const RunConfig& config, const std::vector<mesh::Identity>& identities, bool with_peers = true) {
  PeerRun run(config);
  run.start();
  Workers workers;
  for (const mesh::Identity& identity : identities) workers.add(run.server().link(), identity, with_peers);
  const auto summary = run.server().wait(5s);
  EXPECT_TRUE(summary.ok()) << summary.status().to_string();
  Outcome outcome;
  if (!summary.ok()) return outcome;
  outcome.status = summary->status;
  outcome.digest = run.digest();
  outcome.rounds = summary->status.round;
  outcome.by_peers = run.rounds_by_peers();
  const auto& history = summary->status.history;
  double seconds = 0;
  for (size_t i = history.size() / 2; i < history.size(); ++i) {
    outcome.bytes_per_round += static_cast<double>(history[i].bytes_in + history[i].bytes_out);
    seconds += history[i].seconds;
  }
  const auto counted = static_cast<double>(history.size() - history.size() / 2);
  outcome.bytes_per_round /= counted;
  outcome.rounds_per_second = counted / seconds;
  return outcome;
}

std::vector<mesh::Identity> identities(size_t count) {
  std::vector<mesh::Identity> list;
  for (size_t i = 0; i < count; ++i) list.push_back(*mesh::Identity::generate());
  return list;
}

TEST(WorkerReduction, BothWaysEndInTheSameBitsAndPeersSpareTheCoordinator) {
  const auto nodes = identities(4);
  const Outcome coordinator = run_once(config_of(4, 16, "coordinator"), nodes);
  const Outcome peers = run_once(config_of(4, 16, "peers"), nodes);
  EXPECT_EQ(coordinator.by_peers, 0u);
  EXPECT_EQ(coordinator.rounds, 16u);
  EXPECT_EQ(peers.rounds, 16u);
  // The first goes by the coordinator while it is not known yet who can be reached.
  EXPECT_GE(peers.by_peers, 12u);
  EXPECT_EQ(peers.digest, coordinator.digest);
  EXPECT_LT(peers.bytes_per_round, 0.65 * coordinator.bytes_per_round);
  std::printf(
      "4 workers, 100,000 parameters: through the coordinator %.0f KB a round by peers, %.0f KB without; %.2f "
      "and %.2f rounds/s\n",
      peers.bytes_per_round / 1e3, coordinator.bytes_per_round / 1e3, peers.rounds_per_second,
      coordinator.rounds_per_second);
  // The account of who did what is the same.
  ASSERT_EQ(peers.status.nodes.size(), coordinator.status.nodes.size());
  for (size_t i = 0; i < peers.status.nodes.size(); ++i) {
    EXPECT_EQ(peers.status.nodes[i].id, coordinator.status.nodes[i].id);
    EXPECT_EQ(peers.status.nodes[i].tokens, coordinator.status.nodes[i].tokens);
    EXPECT_EQ(peers.status.nodes[i].steps, 16u);
    EXPECT_EQ(peers.status.nodes[i].reports, 16u);
  }
}

TEST(WorkerReduction, AWorkerThatCannotTakePartMakesTheRoundsGoByTheCoordinator) {
  const auto nodes = identities(2);
  PeerRun run(config_of(2, 4, "peers"));
  run.start();
  Workers workers;
  workers.add(run.server().link(), nodes[0]);
  workers.add(run.server().link(), nodes[1], false);
  const auto summary = run.server().wait(5s);
  ASSERT_TRUE(summary.ok()) << summary.status().to_string();
  EXPECT_EQ(run.rounds_by_peers(), 0u);
  EXPECT_EQ(run.digest(), run_once(config_of(2, 4, "coordinator"), nodes).digest);
}

TEST(WorkerReduction, AJoinerTakesPart) {
  const auto nodes = identities(3);
  RunConfig config = config_of(3, 200, "peers");
  config.start_workers = 2;
  PeerRun run(config);
  run.start();
  Workers workers;
  workers.add(run.server().link(), nodes[0]);
  workers.add(run.server().link(), nodes[1]);
  ASSERT_TRUE(run.wait_for([&] { return run.rounds_by_peers() >= 3; }));
  workers.add(run.server().link(), nodes[2]);
  const auto three = [&] {
    const auto closed = run.events(EventKind::round_closed);
    return std::ranges::count_if(closed, [](const Event& e) { return e.by_peers && e.workers == 3; }) >= 4;
  };
  EXPECT_TRUE(run.wait_for(three));
}

TEST(WorkerReduction, TheCoordinatorMayComeBack) {
  const auto nodes = identities(3);
  PeerRun run(config_of(3, 20, "peers"));
  run.start();
  const mesh::RunLink link = run.server().link();
  Workers workers;
  for (const auto& node : nodes) workers.add(link, node);
  ASSERT_TRUE(run.wait_for([&] { return run.rounds_by_peers() >= 4; }));
  run.restart();
  const size_t before = run.rounds_by_peers();
  const auto summary = run.server().wait(5s);
  ASSERT_TRUE(summary.ok()) << summary.status().to_string();
  EXPECT_GT(run.rounds_by_peers(), before + 3);
  EXPECT_EQ(run.digest(), run_once(config_of(3, 20, "coordinator"), nodes).digest);
}

// Says that the sum is another one: the round goes by the coordinator, and ends in the right parameters.
TEST(WorkerReduction, AWorkerThatLiesOfTheMeanChangesNothing) {
  const auto nodes = identities(3);
  PeerRun run(config_of(3, 4, "peers"));
  run.start();
  Workers workers;
  std::atomic<int> lies = 0;
  for (const auto& node : nodes) {
    Workers::Tamper tamper;
    if (node.id() == nodes[1].id())
      tamper = [&lies](std::string_view method, mesh::Message& request) {
        if (method != "reduced" || request.payload.empty()) return;
        request.payload[2] ^= std::byte{0x40};
        ++lies;
      };
    workers.add(run.server().link(), node, true, tamper);
  }
  const auto summary = run.server().wait(5s);
  ASSERT_TRUE(summary.ok()) << summary.status().to_string();
  EXPECT_GT(lies, 0);
  EXPECT_EQ(run.rounds_by_peers(), 0u);
  EXPECT_GE(run.events(EventKind::reduction_failed).size(), 1u);
  EXPECT_EQ(run.digest(), run_once(config_of(3, 4, "coordinator"), nodes).digest);
}

// Commits to another update than it adds: no mean is taken with it, and its own update is refused.
TEST(WorkerReduction, AWorkerThatCommitsToAnotherUpdateIsRefused) {
  const auto nodes = identities(3);
  RunConfig config = config_of(3, 4, "peers", 1000);  // one chunk: every update is shown whole
  PeerRun run(config);
  run.start();
  Workers workers;
  for (const auto& node : nodes) {
    Workers::Tamper tamper;
    if (node.id() == nodes[1].id())
      tamper = [](std::string_view method, mesh::Message& request) {
        proto::SubmitRequest report;
        if (method == "submit" && report.ParseFromString(request.body) && report.committed())
          request.payload[5] ^= std::byte{1};
      };
    workers.add(run.server().link(), node, true, tamper);
  }
  const auto summary = run.server().wait(5s);
  ASSERT_TRUE(summary.ok()) << summary.status().to_string();
  for (const Event& closed : run.events(EventKind::round_closed))
    EXPECT_TRUE(!closed.by_peers || closed.workers == 2) << "without the liar";
  for (const NodeStatus& node : summary->status.nodes) {
    const bool liar = node.id == nodes[1].id().to_string();
    EXPECT_EQ(node.rejected > 0, liar) << node.id;
  }
}

// A process of its own, for the tests below: a worker that dies as it begins to add up for the fourth time, so many
// milliseconds after, or never.
TEST(WorkerReductionProcess, Worker) {
  const char* const link_text = std::getenv("SPORKLE_TEST_LINK");
  if (!link_text) GTEST_SKIP() << "part of WorkerReduction.AProcessThatDies...";
  const auto link = mesh::RunLink::parse(link_text);
  const auto identity = mesh::Identity::load_or_create(std::getenv("SPORKLE_TEST_HOME"));
  ASSERT_TRUE(link.ok() && identity.ok());
  const int dies_after_ms = std::atoi(std::getenv("SPORKLE_TEST_DIES_AFTER_MS"));
  WorkerOptions options;
  options.reduction_identity = *identity;
  int reductions = 0;
  options.on_reduction = [&](uint64_t) {
    if (dies_after_ms < 0 || ++reductions < 4) return;
    if (dies_after_ms == 0) ::_exit(99);
    std::thread([dies_after_ms] {
      std::this_thread::sleep_for(std::chrono::milliseconds(dies_after_ms));
      ::_exit(99);
    }).detach();
  };
  Worker worker(*link, *identity, replicas(), options);
  const auto summary = worker.run();
  ASSERT_TRUE(summary.ok()) << summary.status().to_string();
  EXPECT_TRUE(summary->finished);
}

pid_t start_worker(const std::string& link, const std::filesystem::path& home, int dies_after_ms) {
  const std::string variables[] = {"SPORKLE_TEST_LINK=" + link, "SPORKLE_TEST_HOME=" + home.string(),
                                   "SPORKLE_TEST_DIES_AFTER_MS=" + std::to_string(dies_after_ms)};
  std::vector<char*> environment;
  for (const std::string& variable : variables) environment.push_back(const_cast<char*>(variable.c_str()));
  for (char** variable = environ; *variable; ++variable) environment.push_back(*variable);
  environment.push_back(nullptr);
  const pid_t child = ::fork();
  if (child != 0) return child;
  const int nowhere = ::open("/dev/null", O_WRONLY);
  ::dup2(nowhere, 1);
  ::execle("/proc/self/exe", "run_test", "--gtest_filter=WorkerReductionProcess.Worker", nullptr, environment.data());
  ::_exit(98);
}

// Of four processes one ends without a word as it begins to add up with the others, or a little later.
void one_dies(int after_ms) {
  SCOPED_TRACE(after_ms);
  constexpr uint32_t kWorkers = 4;
  PeerRun run(config_of(kWorkers, 16, "peers", 1'000'000));
  run.start();
  TemporaryFolder homes;
  std::vector<pid_t> children;
  for (uint32_t i = 0; i < kWorkers; ++i)
    children.push_back(
        start_worker(run.server().link().to_string(), homes.path() / std::to_string(i), i == 1 ? after_ms : -1));
  const auto summary = run.server().wait(10s);
  ASSERT_TRUE(summary.ok()) << summary.status().to_string();
  for (uint32_t i = 0; i < kWorkers; ++i) {
    int status = 0;
    ASSERT_EQ(::waitpid(children[i], &status, 0), children[i]);
    EXPECT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), i == 1 ? 99 : 0) << "worker " << i;
  }
  EXPECT_GE(summary->status.tokens, config_of(kWorkers, 16, "peers").manifest.total_tokens());
  uint64_t tokens = 0;
  for (const NodeStatus& node : summary->status.nodes) tokens += node.tokens;
  EXPECT_EQ(tokens, summary->status.tokens) << "the account of who did what";
  const auto closed = run.events(EventKind::round_closed);
  EXPECT_GE(std::ranges::count_if(closed, [](const Event& e) { return e.by_peers && e.workers == 4; }), 2);
  EXPECT_GE(std::ranges::count_if(closed, [](const Event& e) { return e.by_peers && e.workers == 3; }), 4);
  // What is left for the last round may be less than a step for each.
  EXPECT_TRUE(closed.back().by_peers || closed.back().workers == 1);
  EXPECT_LT(ToyReplica::loss(*run.server().parameters()), ToyReplica::loss(std::vector<float>(1'000'000)));
}

TEST(WorkerReduction, AProcessThatDiesBeforeItReducesBreaksNothing) { one_dies(0); }
TEST(WorkerReduction, AProcessThatDiesWhileItReducesBreaksNothing) {
  for (const int after_ms : {8, 20}) one_dies(after_ms);
}

}  // namespace
}  // namespace sporkle::run
