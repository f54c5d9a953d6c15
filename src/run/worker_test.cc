// Coordinator and workers over real connections on this machine.
#include "run/worker.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <limits>
#include <mutex>
#include <thread>

#include "run/coordinator_server.h"
#include "run/simulation_testing.h"

namespace sporkle::run {
namespace {

using namespace std::chrono_literals;
using testing::TemporaryFolder;
using testing::ToyReplica;

class ToyHost : public ModelHost {
 public:
  explicit ToyHost(size_t count) : count_(count) {}
  Result<std::vector<float>> initial_parameters() override { return std::vector<float>(count_, 0.0f); }
  Result<double> evaluate(std::span<const float> parameters) override {
    ++evaluations;
    return ToyReplica::loss(parameters);
  }
  Result<std::string> save_checkpoint(std::span<const float>, const CheckpointInfo& info) override {
    if (disk_full) return Status(Code::no_space, "no space left");
    if (info.final) ++final_checkpoints;
    return "checkpoint-" + std::to_string(info.round);
  }
  std::atomic<int> evaluations = 0;
  std::atomic<int> final_checkpoints = 0;
  std::atomic<bool> disk_full = false;

 private:
  size_t count_;
};

RunConfig local_config() {
  RunConfig config = testing::toy_config();
  config.heartbeat_interval_s = 0.05;
  config.heartbeat_timeout_s = 2;
  config.disconnect_grace_s = 0.5;
  config.long_poll_s = 1;
  return config;
}

// Forwards connections to a port; cuts the first one off after so many bytes have gone to the server.
class CuttingProxy {
 public:
  CuttingProxy(uint16_t to, size_t cut_after_bytes) : to_(to), left_(cut_after_bytes) {
    listener_ = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address = loopback(0);
    socklen_t size = sizeof address;
    EXPECT_EQ(::bind(listener_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(::listen(listener_, 8), 0);
    ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { loop(); });
  }
  ~CuttingProxy() {
    stop_ = true;
    thread_.join();
    ::close(listener_);
  }
  uint16_t port() const { return port_; }
  bool cut() const { return cut_; }

 private:
  static sockaddr_in loopback(uint16_t port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
  }

  void loop() {
    std::vector<pollfd> sockets = {{listener_, POLLIN, 0}};  // then pairs: client, server
    char buffer[4096];
    while (!stop_) {
      ::poll(sockets.data(), sockets.size(), 20);
      for (size_t i = 1; i < sockets.size(); ++i) {
        if (sockets[i].fd < 0 || sockets[i].revents == 0) continue;
        const size_t other = ((i - 1) ^ 1) + 1;
        const ssize_t count = ::recv(sockets[i].fd, buffer, sizeof buffer, 0);
        const bool upstream = (i - 1) % 2 == 0;
        bool broken = count <= 0;
        if (!broken && upstream && !cut_ && left_ < static_cast<size_t>(count)) broken = cut_ = true;
        if (!broken && upstream && !cut_) left_ -= static_cast<size_t>(count);
        for (ssize_t sent = 0; !broken && sent < count;) {
          const ssize_t now = ::send(sockets[other].fd, buffer + sent, static_cast<size_t>(count - sent), MSG_NOSIGNAL);
          broken = now <= 0;
          sent += now;
        }
        if (!broken) continue;
        ::close(sockets[i].fd);
        ::close(sockets[other].fd);
        sockets[i].fd = sockets[other].fd = -1;
      }
      if (sockets[0].revents & POLLIN) {
        const int client = ::accept(listener_, nullptr, nullptr);
        const int server = ::socket(AF_INET, SOCK_STREAM, 0);
        const sockaddr_in address = loopback(to_);
        EXPECT_EQ(::connect(server, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
        sockets.push_back({client, POLLIN, 0});
        sockets.push_back({server, POLLIN, 0});
      }
    }
    for (size_t i = 1; i < sockets.size(); ++i)
      if (sockets[i].fd >= 0) ::close(sockets[i].fd);
  }

  const uint16_t to_;
  size_t left_;
  int listener_;
  uint16_t port_ = 0;
  std::atomic<bool> cut_ = false;
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

class MeshRun {
 public:
  explicit MeshRun(RunConfig config = local_config())
      : config_(std::move(config)),
        tokens_(testing::toy_tokens()),
        identity_(*mesh::Identity::generate()),
        host_(config_.manifest.parameter_count) {
    start(0);
  }
  ~MeshRun() {
    for (auto& running : workers_) {
      running->worker->stop();
      if (running->thread.joinable()) running->thread.join();
    }
  }

  void start(uint16_t port) {
    CoordinatorServerOptions options;
    options.folder = folder_.path();
    options.server.host = "127.0.0.1";
    options.server.port = port;
    options.addresses = {"127.0.0.1"};
    options.checkpoint_every_rounds = 2;
    options.on_event = [this](const Event& event) {
      const std::lock_guard lock(mutex_);
      ++events_[event.kind];
    };
    auto server = CoordinatorServer::start(config_, identity_, tokens_, host_, options);
    ASSERT_TRUE(server.ok()) << server.status().to_string();
    server_ = std::move(*server);
  }
  void restart() {
    const uint16_t port = server_->port();
    server_.reset();
    start(port);
  }

  struct Running {
    std::unique_ptr<Worker> worker;
    std::thread thread;
    std::atomic<bool> done = false;
    Result<WorkerSummary> result{Status(Code::internal, "still running")};
  };

  static ReplicaFactory factory(std::chrono::microseconds per_step = 1000us) {
    return [per_step](const RunManifest& manifest) -> Result<std::unique_ptr<Replica>> {
      auto replica = std::make_unique<ToyReplica>(manifest.parameter_count);
      replica->tokens_per_step = manifest.tokens_per_step;
      replica->on_step = [per_step] { std::this_thread::sleep_for(per_step); };
      return std::unique_ptr<Replica>(std::move(replica));
    };
  }

  Running& add(ReplicaFactory replica = factory(), WorkerOptions options = {}, uint16_t port = 0,
               std::optional<mesh::Identity> identity = std::nullopt) {
    mesh::RunLink link = server_->link();
    if (port != 0) link.addresses = {{"127.0.0.1", port}};
    auto& running = *workers_.emplace_back(std::make_unique<Running>());
    running.worker = std::make_unique<Worker>(link, identity ? *identity : *mesh::Identity::generate(),
                                              std::move(replica), std::move(options));
    running.thread = std::thread([&running] {
      running.result = running.worker->run();
      running.done = true;
    });
    return running;
  }
  Result<WorkerSummary> join(Running& running) {
    running.thread.join();
    return running.result;
  }

  CoordinatorServer& server() { return *server_; }
  ToyHost& host() { return host_; }
  int events(EventKind kind) {
    const std::lock_guard lock(mutex_);
    return events_[kind];
  }
  bool wait_for(const std::function<bool()>& condition, std::chrono::seconds limit = 60s) {
    const auto until = std::chrono::steady_clock::now() + limit;
    while (!condition()) {
      if (std::chrono::steady_clock::now() > until) return false;
      std::this_thread::sleep_for(5ms);
    }
    return true;
  }

 private:
  const RunConfig config_;
  const std::vector<std::byte> tokens_;
  TemporaryFolder folder_;
  mesh::Identity identity_;
  ToyHost host_;
  std::mutex mutex_;
  std::map<EventKind, int> events_;
  std::unique_ptr<CoordinatorServer> server_;
  std::vector<std::unique_ptr<Running>> workers_;
};

TEST(Worker, ThreeWorkersTrainOverTheMesh) {
  MeshRun run;
  for (int i = 0; i < 3; ++i) run.add();
  const auto summary = run.server().wait(5s);
  ASSERT_TRUE(summary.ok()) << summary.status().to_string();
  EXPECT_LT(*summary->validation_loss, 0.01);
  EXPECT_EQ(*summary->validation_loss, ToyReplica::loss(*run.server().parameters()));
  EXPECT_EQ(summary->checkpoint, "checkpoint-" + std::to_string(summary->status.round));
  EXPECT_EQ(run.host().final_checkpoints, 1);
  EXPECT_EQ(summary->status.tokens, local_config().manifest.total_tokens());
  EXPECT_EQ(summary->status.workers_joined, 3u);
  EXPECT_EQ(summary->status.workers_lost, 0u);
  for (const NodeStatus& node : summary->status.nodes) EXPECT_EQ(node.state, NodeState::left);
  EXPECT_EQ(run.events(EventKind::round_closed), static_cast<int>(summary->status.round));
  EXPECT_EQ(run.events(EventKind::finished), 1);
  EXPECT_GE(run.events(EventKind::checkpoint_saved), 1);
  EXPECT_GE(run.events(EventKind::evaluated), 1);
}

TEST(Worker, WorkersEndWithTheRun) {
  MeshRun run;
  std::vector<MeshRun::Running*> workers;
  for (int i = 0; i < 3; ++i) workers.push_back(&run.add());
  uint64_t tokens = 0;
  for (auto* worker : workers) {
    const auto summary = run.join(*worker);
    ASSERT_TRUE(summary.ok()) << summary.status().to_string();
    EXPECT_TRUE(summary->finished);
    EXPECT_EQ(summary->late + summary->rejected, 0u);
    tokens += summary->tokens;
  }
  EXPECT_EQ(tokens, local_config().manifest.total_tokens());
}

TEST(Worker, AThrottledWorkerGetsFewerSteps) {
  RunConfig config = local_config();
  config.inner_steps = "20";
  config.manifest.total_steps = 200;
  MeshRun run(config);
  WorkerOptions throttled;
  throttled.name = "slow";
  throttled.speed = 0.25;
  run.add();
  run.add();
  run.add(MeshRun::factory(), throttled);
  ASSERT_TRUE(run.server().wait(5s).ok());
  uint64_t slow = 0, fast = 0;
  for (const NodeStatus& node : run.server().status().nodes) (node.name == "slow" ? slow : fast) += node.steps;
  EXPECT_GT(slow, 0u);
  EXPECT_LT(slow, fast / 4);
}

TEST(Worker, AConnectionCutInTheMiddleOfAnUpdateIsMadeAgain) {
  RunConfig config = local_config();
  config.manifest.parameter_count = 300'000;  // one update is three times what the proxy lets through
  config.manifest.total_steps = 20;
  config.inner_steps = "2";
  MeshRun run(config);
  CuttingProxy proxy(run.server().port(), 100'000);
  run.add();
  run.add();
  std::atomic<int> disconnected = 0;
  WorkerOptions options;
  options.on_event = [&](const WorkerEvent& event) { disconnected += event.kind == WorkerEventKind::disconnected; };
  auto& cut = run.add(MeshRun::factory(), options, proxy.port());
  const auto summary = run.server().wait(5s);
  ASSERT_TRUE(summary.ok());
  EXPECT_TRUE(proxy.cut());
  const auto result = run.join(cut);
  ASSERT_TRUE(result.ok()) << result.status().to_string();
  EXPECT_GE(result->reconnects, 1u);
  EXPECT_GE(disconnected, 1);
  EXPECT_GE(result->accepted, 2u);
  EXPECT_EQ(summary->status.tokens, config.manifest.total_tokens());
}

TEST(Worker, WorkersOutliveTheCoordinatorsRestart) {
  RunConfig config = local_config();
  config.manifest.total_steps = 150;
  MeshRun run(config);
  std::vector<MeshRun::Running*> workers;
  for (int i = 0; i < 3; ++i) workers.push_back(&run.add(MeshRun::factory(5ms)));
  ASSERT_TRUE(run.wait_for([&] { return run.server().status().round >= 5; }));
  run.restart();
  EXPECT_GE(run.server().status().round, 5u);
  const auto summary = run.server().wait(5s);
  ASSERT_TRUE(summary.ok()) << summary.status().to_string();
  EXPECT_EQ(summary->status.tokens, config.manifest.total_tokens());
  EXPECT_EQ(summary->status.workers_joined, 3u);
  for (auto* worker : workers) {
    const auto result = run.join(*worker);
    ASSERT_TRUE(result.ok()) << result.status().to_string();
    EXPECT_GE(result->reconnects, 1u);
  }
}

TEST(Worker, StopSaysGoodbyeAtOnce) {
  RunConfig config = local_config();
  config.long_poll_s = 30;
  MeshRun run(config);
  auto& worker = run.add();  // waits for two others
  ASSERT_TRUE(run.wait_for([&] {
    const RunStatus status = run.server().status();
    return !status.nodes.empty() && status.nodes[0].bytes_out > 2000;
  }));
  std::this_thread::sleep_for(100ms);
  const auto start = std::chrono::steady_clock::now();
  worker.worker->stop();
  const auto result = run.join(worker);
  EXPECT_LT(std::chrono::steady_clock::now() - start, 3s);
  ASSERT_TRUE(result.ok()) << result.status().to_string();
  EXPECT_FALSE(result->finished);
  EXPECT_EQ(run.server().status().nodes.at(0).state, NodeState::left);
}

TEST(Worker, AStoppedCoordinatorSaysSo) {
  MeshRun run;
  std::thread stopper([&] {
    std::this_thread::sleep_for(50ms);
    run.server().stop();
  });
  EXPECT_EQ(run.server().wait().status().code(), Code::cancelled);
  stopper.join();
}

TEST(Worker, ErrorsThatWaitingCannotMend) {
  MeshRun run;
  const auto error = [&](ReplicaFactory replica) {
    auto& worker = run.add(std::move(replica));
    return run.join(worker).status();
  };
  EXPECT_EQ(error([](const RunManifest&) -> Result<std::unique_ptr<Replica>> {
              return unsupported("this model needs another release");
            }).code(),
            Code::unsupported);
  const Status size = error([](const RunManifest&) -> Result<std::unique_ptr<Replica>> {
    return std::unique_ptr<Replica>(std::make_unique<ToyReplica>(3));
  });
  EXPECT_EQ(size.code(), Code::invalid_argument);
  EXPECT_NE(size.message().find("3 parameters"), std::string::npos) << size.message();
}

TEST(Worker, ADivergedModelEndsTheWorkerNotTheRun) {
  RunConfig config = local_config();
  config.start_workers = 1;
  MeshRun run(config);
  class Diverging : public ToyReplica {
   public:
    using ToyReplica::ToyReplica;
    Status get_parameters(std::span<float> parameters) override {
      std::fill(parameters.begin(), parameters.end(), std::numeric_limits<float>::quiet_NaN());
      return {};
    }
  };
  auto& worker = run.add([](const RunManifest& manifest) -> Result<std::unique_ptr<Replica>> {
    auto replica = std::make_unique<Diverging>(manifest.parameter_count);
    replica->tokens_per_step = manifest.tokens_per_step;
    return std::unique_ptr<Replica>(std::move(replica));
  });
  const Status status = run.join(worker).status();
  EXPECT_EQ(status.code(), Code::invalid_argument);
  EXPECT_NE(status.message().find("diverged"), std::string::npos) << status.message();
  run.add();
  EXPECT_TRUE(run.server().wait(5s).ok());
}

TEST(Worker, TwoWorkersWithOneKeyAreTold) {
  MeshRun run;  // never starts: three are needed
  const mesh::Identity identity = *mesh::Identity::generate();
  auto& first = run.add(MeshRun::factory(), {}, 0, identity);
  ASSERT_TRUE(run.wait_for([&] { return run.server().status().nodes.size() == 1; }));
  run.add(MeshRun::factory(), {}, 0, identity);
  const Status status = run.join(first).status();
  EXPECT_EQ(status.code(), Code::permission_denied);
  EXPECT_NE(status.message().find("SPORKLE_HOME"), std::string::npos) << status.message();
}

TEST(Worker, ALinkToAnotherKeyIsRefused) {
  MeshRun run;
  mesh::RunLink link = run.server().link();
  link.coordinator = mesh::Identity::generate()->id();
  Worker worker(link, *mesh::Identity::generate(), MeshRun::factory(), {});
  EXPECT_EQ(worker.run().status().code(), Code::permission_denied);
}

TEST(Worker, AnotherRunOfTheCoordinatorIsRefused) {
  MeshRun run;
  mesh::RunLink link = run.server().link();
  ASSERT_EQ(link.parameters.at("run"), run.server().status().run_id.substr(0, 16));
  ASSERT_EQ(run.server().record()->link(), link);
  link.parameters["run"] = "0123456789abcdef";
  Worker worker(link, *mesh::Identity::generate(), MeshRun::factory(), {});
  const Status status = worker.run().status();
  EXPECT_EQ(status.code(), Code::invalid_argument);
  EXPECT_NE(status.message().find("the link is of run 0123456789abcdef"), std::string::npos) << status.message();
  EXPECT_TRUE(run.server().status().nodes.empty() || run.server().status().nodes[0].tokens == 0);
}

TEST(Worker, NobodyThereIsAnErrorAfterAWhile) {
  mesh::RunLink link;
  link.coordinator = mesh::Identity::generate()->id();
  link.addresses = {{"127.0.0.1", 1}};
  WorkerOptions options;
  options.first_connection_patience = 300ms;
  Worker worker(link, *mesh::Identity::generate(), MeshRun::factory(), options);
  EXPECT_EQ(worker.run().status().code(), Code::unavailable);
}

TEST(Worker, ACheckpointThatCannotBeSavedDoesNotEndTheRun) {
  MeshRun run;
  run.host().disk_full = true;
  for (int i = 0; i < 3; ++i) run.add();
  const auto summary = run.server().wait(5s);
  ASSERT_TRUE(summary.ok());
  EXPECT_EQ(summary->checkpoint, "");
  EXPECT_TRUE(summary->validation_loss.has_value());
  EXPECT_GE(run.events(EventKind::checkpoint_failed), 1);
}

TEST(Worker, StatusIsForEveryPeer) {
  MeshRun run;
  run.add();
  ASSERT_TRUE(run.wait_for([&] { return run.server().status().nodes.size() == 1; }));
  auto client = mesh::Client::connect(run.server().link(), *mesh::Identity::generate());
  ASSERT_TRUE(client.ok()) << client.status().to_string();
  const auto status = fetch_status(**client, 5s);
  ASSERT_TRUE(status.ok()) << status.status().to_string();
  EXPECT_EQ(status->name, "toy");
  EXPECT_EQ(status->nodes.size(), 1u) << "asking for the status made a member";
}

TEST(Worker, AnOccupiedPortIsAnError) {
  MeshRun run;
  TemporaryFolder folder;
  CoordinatorServerOptions options;
  options.folder = folder.path();
  options.server.host = "127.0.0.1";
  options.server.port = run.server().port();
  const std::vector<std::byte> tokens = testing::toy_tokens();
  ToyHost host(testing::kToyParameters);
  const auto second = CoordinatorServer::start(local_config(), *mesh::Identity::generate(), tokens, host, options);
  EXPECT_EQ(second.status().code(), Code::already_exists);
}

}  // namespace
}  // namespace sporkle::run
