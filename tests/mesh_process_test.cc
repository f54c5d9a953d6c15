// Faults of a mesh of real processes: whatever happens to a worker, the coordinator, the bytes between them or the
// disk, the run goes on to its end or says clearly why not, and every checkpoint loads.
#include <signal.h>
#include <sys/mount.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "mesh/test_peer.h"
#include "tests/command.h"
#include "tests/forwarder.h"

namespace sporkle::testing {
namespace {

namespace fs = std::filesystem;

std::string event(const std::string& kind) { return "{\"event\":\"" + kind + "\""; }

// Polls for a minute.
bool eventually(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return true;
}

class MeshProcessTest : public CommandTest {
 protected:
  static constexpr int kSteps = 60, kInnerSteps = 5, kTokensPerStep = 32, kWorkers = 2;
  static constexpr int kTokens = kSteps * kWorkers * kTokensPerStep;

  void SetUp() override {
    CommandTest::SetUp();
    write("text.txt", sample_text(2000));
    // Compiles the kernels once for all tests, so that no step of theirs waits for that.
    static bool compiled = false;
    if (!compiled) {
      config("");
      const Output output = run({"train", "config.toml", "--threads", "1"});
      ASSERT_EQ(output.exit_code, 0) << output.err;
      fs::remove_all(folder_ / "model");
      compiled = true;
    }
  }

  void config(const std::string& run_section, const std::string& directory = "model", int steps = kSteps,
              const std::string& output_section = "") {
    write("config.toml",
          "[data]\npath = \"text.txt\"\n[model]\nlayers = 1\nheads = 1\nwidth = 16\ncontext = 16\n[train]\n"
          "batch_size = 2\neval_batches = 1\nsteps = " +
              std::to_string(steps) + "\n[output]\ndirectory = \"" + directory + "\"\n" + output_section +
              "[run]\nworkers = " + std::to_string(kWorkers) + "\ninner_steps = \"" + std::to_string(kInnerSteps) +
              "\"\n" + run_section);
  }

  // Starts the run of config.toml, or goes on with it; sets link_.
  Running coordinate(const std::string& state = "state", const std::string& checkpoint_every = "3") {
    Running coordinator = start({"run", "start", "config.toml", "--listen", "127.0.0.1:0", "--address", "127.0.0.1",
                                 "--threads", "1", "--evaluate-every", "0", "--evaluation-windows", "2",
                                 "--checkpoint-every", checkpoint_every, "--state", state, "--json"});
    EXPECT_TRUE(coordinator.wait_for_output(event("link"))) << coordinator.errors();
    link_ = field(coordinator.output(), "link");
    port_ = static_cast<uint16_t>(std::atoi(field(coordinator.output(), "port").c_str()));
    return coordinator;
  }

  Running join(const std::string& name, const std::string& link, const std::string& speed = "0.05") {
    return start({"join", link, "--name", name, "--threads", "1", "--speed", speed, "--json"},
                 {{"SPORKLE_HOME", (folder_ / name).string()}});
  }

  // The link by way of another port.
  std::string link_through(uint16_t port) const {
    std::string link = link_;
    const std::string own = ":" + std::to_string(port_);
    return link.replace(link.find(own), own.size(), ":" + std::to_string(port));
  }

  // Lines of one kind of event, and of one node where it is named.
  static std::vector<std::string> events(const Running& command, const std::string& kind,
                                         const std::string& name = "") {
    std::vector<std::string> result;
    for (const std::string& line : lines(command.output()))
      if (field(line, "event") == kind && (name.empty() || field(line, "name") == name)) result.push_back(line);
    return result;
  }
  static bool wait_for_event(Running& command, const std::string& kind, const std::string& name = "") {
    return eventually([&] { return !events(command, kind, name).empty(); });
  }

  void expect_checkpoints_load(const std::string& directory, size_t at_least = 1) {
    size_t count = 0;
    for (const auto& entry : fs::directory_iterator(folder_ / directory)) {
      const std::string name = entry.path().filename().string();
      if (!name.starts_with("checkpoint-") && name != "latest") continue;
      const Output shown = run({"checkpoint", "show", entry.path().string(), "--json"});
      EXPECT_EQ(shown.exit_code, 0) << entry.path() << ": " << shown.err;
      count += name != "latest";
    }
    EXPECT_GE(count, at_least);
  }

  // The run ends well and with all of its tokens; returns its summary.
  std::string expect_finished(Running& coordinator, const std::string& directory = "model") {
    const Output output = coordinator.wait();
    EXPECT_EQ(output.exit_code, 0) << output.out << output.err;
    const std::string summary = last_line(output.out);
    EXPECT_EQ(field(summary, "event"), "summary") << output.out;
    EXPECT_NE(field(summary, "validation_loss"), "");
    const Output shown = run({"checkpoint", "show", field(summary, "checkpoint"), "--json"});
    EXPECT_EQ(shown.exit_code, 0) << shown.err;
    expect_checkpoints_load(directory);
    return summary;
  }
  static void expect_worker_finished(Running& worker) {
    const Output output = worker.wait();
    EXPECT_EQ(output.exit_code, 0) << output.out << output.err;
    EXPECT_EQ(field(last_line(output.out), "finished"), "true") << output.out;
  }

  std::string link_;
  uint16_t port_ = 0;
};

// The worker beta is killed while it trains: its lease is handed out again.
TEST_F(MeshProcessTest, AWorkerIsKilledWhileComputing) {
  config("minimum_deadline_s = 60.0\n");
  Running coordinator = coordinate();
  Running alpha = join("alpha", link_), beta = join("beta", link_, "0.01");
  ASSERT_TRUE(beta.wait_for_output(event("lease_taken"), 2)) << beta.errors();
  beta.send_signal(SIGKILL);
  EXPECT_EQ(beta.wait().exit_code, 128 + SIGKILL);
  const std::string summary = expect_finished(coordinator);
  expect_worker_finished(alpha);
  EXPECT_EQ(events(coordinator, "worker_lost", "beta").size(), 1u) << coordinator.output();
  EXPECT_EQ(field(summary, "workers_joined"), "2");
  EXPECT_EQ(field(summary, "workers_lost"), "1");
  EXPECT_GE(std::atoi(field(summary, "tokens").c_str()), kTokens);
}

// Half of a message has left the killed worker, or half of one has reached it.
class TransferTest : public MeshProcessTest, public ::testing::WithParamInterface<Direction> {};

TEST_P(TransferTest, AWorkerIsKilledWithinATransfer) {
  config("minimum_deadline_s = 60.0\n");
  Running coordinator = coordinate();
  Forwarder forwarder(port_);
  Running alpha = join("alpha", link_), beta = join("beta", link_through(forwarder.port()));
  ASSERT_TRUE(beta.wait_for_output(event("accepted"))) << beta.errors();
  // An update takes some thousand bytes, and so does the answer that begins a round; a heartbeat a hundred or two.
  forwarder.inject(GetParam(), 3000, Fault::hold);
  ASSERT_TRUE(forwarder.wait_for_fault());
  beta.send_signal(SIGKILL);
  EXPECT_EQ(beta.wait().exit_code, 128 + SIGKILL);
  forwarder.cut();
  const std::string summary = expect_finished(coordinator);
  expect_worker_finished(alpha);
  EXPECT_EQ(field(summary, "workers_lost"), "1");
  EXPECT_GE(std::atoi(field(summary, "tokens").c_str()), kTokens);
}

INSTANTIATE_TEST_SUITE_P(SendingAndReceiving, TransferTest,
                         ::testing::Values(Direction::to_coordinator, Direction::to_worker), [](const auto& tested) {
                           return tested.param == Direction::to_coordinator ? "Sending" : "Receiving";
                         });

// Stopped for longer than its round waits, the worker goes on with later rounds.
TEST_F(MeshProcessTest, AWorkerIsStoppedAndGoesOn) {
  config("heartbeat_timeout_s = 1.0\nminimum_deadline_s = 0.5\ndeadline_factor = 1.5\n", "model", 200);
  Running coordinator = coordinate();
  Running alpha = join("alpha", link_), beta = join("beta", link_);
  ASSERT_TRUE(beta.wait_for_output(event("accepted"), 2)) << beta.errors();
  beta.send_signal(SIGSTOP);
  const size_t accepted = events(beta, "accepted").size();
  ASSERT_TRUE(eventually([&] {
    return !events(coordinator, "worker_lost", "beta").empty() || !events(coordinator, "lease_lost", "beta").empty();
  })) << coordinator.output();
  const size_t closed = events(coordinator, "round_closed").size();
  EXPECT_TRUE(coordinator.wait_for_output(event("round_closed"), closed + 2)) << "the run waits for the stopped worker";
  beta.send_signal(SIGCONT);
  EXPECT_TRUE(beta.wait_for_output(event("accepted"), accepted + 2)) << beta.output() << coordinator.output();
  const int first_after = std::atoi(field(events(beta, "accepted").at(accepted + 1), "round").c_str());
  EXPECT_GT(first_after, static_cast<int>(closed));
  expect_finished(coordinator);
  expect_worker_finished(alpha);
  expect_worker_finished(beta);
}

TEST_F(MeshProcessTest, TheCoordinatorIsKilledAndStartsAgain) {
  config("minimum_deadline_s = 60.0\n", "model", 100);
  std::optional<Running> first(coordinate());
  const std::string link = link_;
  Running alpha = join("alpha", link_), beta = join("beta", link_);
  ASSERT_TRUE(first->wait_for_output(event("round_closed"), 4)) << first->errors();
  first->send_signal(SIGKILL);
  EXPECT_EQ(first->wait().exit_code, 128 + SIGKILL);
  const int closed = std::atoi(field(events(*first, "round_closed").back(), "round").c_str());

  Running second = coordinate();
  EXPECT_EQ(link_, link) << "the link stays good";
  const std::string summary = expect_finished(second);
  expect_worker_finished(alpha);
  expect_worker_finished(beta);
  EXPECT_GE(events(alpha, "reconnected").size(), 1u) << alpha.output();
  EXPECT_GE(events(beta, "reconnected").size(), 1u) << beta.output();
  // No closed round is done again, none is left out. One may have closed just before its event would have been told.
  int next = std::atoi(field(events(second, "round_closed").front(), "round").c_str());
  EXPECT_GT(next, closed);
  EXPECT_LE(next, closed + 2);
  for (const std::string& line : events(second, "round_closed"))
    EXPECT_EQ(std::atoi(field(line, "round").c_str()), next++);
  EXPECT_EQ(std::to_string(next), field(summary, "rounds"));
  EXPECT_GE(std::atoi(field(summary, "tokens").c_str()), 100 * kWorkers * kTokensPerStep);
}

// Bytes that arrive wrong or not at all, in both directions: TLS notices, the worker connects again.
TEST_F(MeshProcessTest, FramesAreTruncatedAndBitsFlipped) {
  config("minimum_deadline_s = 60.0\n", "model", 250);
  Running coordinator = coordinate();
  Forwarder forwarder(port_);
  Running alpha = join("alpha", link_), beta = join("beta", link_through(forwarder.port()));
  ASSERT_TRUE(beta.wait_for_output(event("accepted"))) << beta.errors();
  size_t faults = 0;
  for (const Fault fault : {Fault::flip, Fault::cut})
    for (const Direction direction : {Direction::to_coordinator, Direction::to_worker}) {
      forwarder.inject(direction, 1500, fault);
      ASSERT_TRUE(forwarder.wait_for_fault());
      EXPECT_TRUE(beta.wait_for_output(event("reconnected"), ++faults)) << beta.output() << beta.errors();
      const size_t accepted = events(beta, "accepted").size();
      EXPECT_TRUE(beta.wait_for_output(event("accepted"), accepted + 1)) << beta.output() << beta.errors();
    }
  const std::string summary = expect_finished(coordinator);
  EXPECT_EQ(field(summary, "workers_joined"), "2");
  expect_worker_finished(alpha);
  expect_worker_finished(beta);
  EXPECT_TRUE(events(coordinator, "update_rejected").empty()) << coordinator.output();
}

// The same within the handshake: the worker tries again.
TEST_F(MeshProcessTest, AHandshakeIsSpoilt) {
  config("minimum_deadline_s = 60.0\n", "model", 20);
  Running coordinator = coordinate();
  Forwarder forwarder(port_);
  forwarder.inject(Direction::to_worker, 100, Fault::cut);
  Running alpha = join("alpha", link_), beta = join("beta", link_through(forwarder.port()));
  ASSERT_TRUE(forwarder.wait_for_fault());
  expect_finished(coordinator);
  expect_worker_finished(alpha);
  expect_worker_finished(beta);
}

TEST_F(MeshProcessTest, ThePeerHasAnotherKey) {
  config("");
  Running coordinator = coordinate();
  const auto other = mesh::Identity::generate();
  ASSERT_TRUE(other.ok());
  const mesh::RunLink right = *mesh::RunLink::parse(link_);
  mesh::RunLink wrong = right;
  wrong.coordinator = other->id();
  const std::vector<std::string> parts{"key", wrong.coordinator.short_id(), right.coordinator.short_id()};
  expect_failure({"join", wrong.to_string()}, parts);
  expect_failure({"run", "status", wrong.to_string()}, parts);
  // And nobody was let in.
  EXPECT_TRUE(events(coordinator, "worker_joined").empty());
  coordinator.send_signal(SIGTERM);
  EXPECT_EQ(coordinator.wait().exit_code, 0);
}

TEST_F(MeshProcessTest, ThePeerSpeaksAnotherProtocol) {
  constexpr uint8_t kOther = mesh::protocol_major + 6;
  // A worker that is behind its time, and a run that goes on.
  config("minimum_deadline_s = 60.0\n");
  Running coordinator = coordinate();
  Running alpha = join("alpha", link_), beta = join("beta", link_);
  ASSERT_TRUE(coordinator.wait_for_output(event("round_closed")));
  mesh::RawPeer peer(mesh::RawSocket::connect(port_), *mesh::Identity::generate(), mesh::TlsStream::Side::client);
  peer.send_hello(kOther);
  const std::string goodbye = peer.receive_goodbye();
  EXPECT_NE(goodbye.find("version " + std::to_string(kOther)), std::string::npos) << goodbye;
  expect_finished(coordinator);
  expect_worker_finished(alpha);
  expect_worker_finished(beta);

  // A coordinator that is ahead of it.
  mesh::RawListener listener;
  const mesh::Identity identity = *mesh::Identity::generate();
  const mesh::RunLink link{identity.id(), {{"127.0.0.1", listener.port()}}, {}};
  Running worker = join("gamma", link.to_string());
  mesh::RawPeer server(listener.accept(), identity, mesh::TlsStream::Side::server);
  server.send_hello(kOther);
  const Output output = worker.wait();
  EXPECT_EQ(output.exit_code, 1) << output.out;
  EXPECT_NE(output.err.find("version " + std::to_string(kOther)), std::string::npos) << output.err;
  EXPECT_NE(output.err.find(std::to_string(mesh::protocol_major)), std::string::npos) << output.err;
}

TEST_F(MeshProcessTest, RandomBytesArriveWhileARunGoesOn) {
  constexpr int kLonger = 120;
  config("minimum_deadline_s = 60.0\n", "model", kLonger);
  Running coordinator = coordinate();
  Running alpha = join("alpha", link_), beta = join("beta", link_);
  ASSERT_TRUE(coordinator.wait_for_output(event("round_opened")));
  std::mt19937 random(7);
  for (int i = 0; i < 200; ++i) {
    mesh::Bytes bytes(random() % 2000 + 1);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
    // Some begin as a TLS handshake does: a record of it, and a length.
    const std::array start{std::byte{22}, std::byte{3}, std::byte{1}, std::byte{1}, std::byte{0}};
    if (i % 2 == 1) std::copy_n(start.begin(), std::min(bytes.size(), start.size()), bytes.begin());
    mesh::RawSocket socket = mesh::RawSocket::connect(port_);
    socket.send(bytes);
    if (i % 3 == 0) socket.reset();
  }
  EXPECT_TRUE(events(coordinator, "finished").empty()) << "all of it came while the run went on";
  const std::string summary = expect_finished(coordinator);
  EXPECT_EQ(field(summary, "workers_joined"), "2");
  EXPECT_EQ(field(summary, "workers_lost"), "0");
  EXPECT_EQ(field(summary, "tokens"), std::to_string(kLonger * kWorkers * kTokensPerStep));
  for (Running* worker : {&alpha, &beta}) {
    expect_worker_finished(*worker);
    EXPECT_EQ(field(last_line(worker->output()), "reconnects"), "0");
  }
}

TEST_F(MeshProcessTest, ThePortIsTaken) {
  config("");
  Running coordinator = coordinate();
  const std::string port = std::to_string(port_);
  expect_failure({"run", "start", "config.toml", "--state", "other", "--listen", "127.0.0.1:" + port},
                 {"127.0.0.1:" + port, "is taken"});
  coordinator.send_signal(SIGTERM);
  EXPECT_EQ(coordinator.wait().exit_code, 0);
}

// A small disk of its own for checkpoints or state.
class FullDiskTest : public MeshProcessTest {
 protected:
  bool mount(const char* size) {
    fs::create_directory(disk());
    mounted_ = ::mount("tmpfs", disk().c_str(), "tmpfs", 0, (std::string("size=") + size).c_str()) == 0;
    return mounted_;
  }
  // Fills what is free.
  void fill() const {
    const std::string block(4096, 'x');
    FILE* file = std::fopen((disk() / "filler").c_str(), "wb");
    ASSERT_NE(file, nullptr);
    std::setvbuf(file, nullptr, _IONBF, 0);
    while (std::fwrite(block.data(), 1, block.size(), file) == block.size()) {
    }
    std::fclose(file);
  }
  void free() const { fs::remove(disk() / "filler"); }
  fs::path disk() const { return folder_ / "disk"; }
  void TearDown() override {
    if (mounted_) {
      EXPECT_EQ(::umount(disk().c_str()), 0);
    }
    MeshProcessTest::TearDown();
  }
  bool mounted_ = false;
};
constexpr char kNoMount[] = "a small file system can only be mounted by root: a full disk was not tested";

// A checkpoint takes 40 kB: some fit, the others do not, and the last one's failure is the run's.
TEST_F(FullDiskTest, CheckpointsFillTheDisk) {
  if (!mount("200k")) GTEST_SKIP() << kNoMount;
  config("minimum_deadline_s = 60.0\n", "disk/model", kSteps, "keep_checkpoints = 100\n");
  Running coordinator = coordinate("state", "1");
  Running alpha = join("alpha", link_), beta = join("beta", link_);
  const Output output = coordinator.wait();
  EXPECT_EQ(output.exit_code, 1) << output.out;
  EXPECT_NE(output.err.find("checkpoint could not be saved"), std::string::npos) << output.err;
  expect_worker_finished(alpha);
  expect_worker_finished(beta);
  ASSERT_FALSE(events(coordinator, "checkpoint_failed").empty());
  EXPECT_NE(events(coordinator, "checkpoint_failed")[0].find("No space left on device"), std::string::npos);
  EXPECT_EQ(field(last_line(output.out), "tokens"), std::to_string(kTokens)) << "the run itself goes on to its end";
  expect_checkpoints_load("disk/model", 2);
}

TEST_F(FullDiskTest, SpaceComesBack) {
  if (!mount("400k")) GTEST_SKIP() << kNoMount;
  config("minimum_deadline_s = 60.0\n", "disk/model", 150);
  Running coordinator = coordinate("state", "1");
  Running alpha = join("alpha", link_), beta = join("beta", link_);
  ASSERT_TRUE(wait_for_event(coordinator, "checkpoint_saved"));
  fill();
  ASSERT_TRUE(wait_for_event(coordinator, "checkpoint_failed"));
  expect_checkpoints_load("disk/model");
  free();
  expect_finished(coordinator, "disk/model");
  expect_worker_finished(alpha);
  expect_worker_finished(beta);
}

// Without its state a run cannot go on; with space again, the same command goes on where it was.
TEST_F(FullDiskTest, TheStateDoesNotFit) {
  if (!mount("4m")) GTEST_SKIP() << kNoMount;
  config("minimum_deadline_s = 60.0\n", "model", 150);
  std::optional<Running> first(coordinate("disk/state"));
  Running alpha = join("alpha", link_), beta = join("beta", link_);
  ASSERT_TRUE(wait_for_event(*first, "checkpoint_saved"));
  fill();
  const Output output = first->wait();
  EXPECT_EQ(output.exit_code, 1) << output.out;
  EXPECT_NE(output.err.find("disk"), std::string::npos) << output.err;
  const int closed = std::atoi(field(events(*first, "round_closed").back(), "round").c_str());
  expect_checkpoints_load("model");
  free();
  Running second = coordinate("disk/state");
  expect_finished(second);
  EXPECT_GT(std::atoi(field(events(second, "round_closed").front(), "round").c_str()), closed);
  expect_worker_finished(alpha);
  expect_worker_finished(beta);
}

}  // namespace
}  // namespace sporkle::testing
