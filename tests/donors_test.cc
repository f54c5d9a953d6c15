// A worker that joins late has the run's parameters from several donors at once, with real processes: one of the donors
// lies, another is killed in the middle.
#include <signal.h>

#include <atomic>
#include <functional>
#include <optional>
#include <thread>

#include "mesh/client.h"
#include "mesh/server.h"
#include "run/parameter_fetch.h"
#include "run/protocol.h"
#include "run/run.pb.h"
#include "tests/command.h"

namespace sporkle::testing {
namespace {

using namespace std::chrono_literals;

constexpr std::chrono::seconds kCallTimeout(10);

bool eventually(const std::function<bool()>& condition, std::chrono::seconds limit = 60s) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(20ms);
  }
  return true;
}

std::string event(const std::string& kind) { return "{\"event\":\"" + kind + "\""; }

std::string event_line(const std::string& output, const std::string& kind) {
  for (const std::string& line : lines(output))
    if (field(line, "event") == kind) return line;
  return "";
}

// A member of the run that says that it gives the parameters, and gives something else.
class Liar {
 public:
  explicit Liar(const mesh::RunLink& run) {
    mesh::ServerCallbacks callbacks;
    callbacks.handler = [this](const mesh::Peer&, std::string_view, const mesh::Message& request,
                               mesh::Responder respond) {
      run::proto::ParameterPieceRequest wanted;
      if (!wanted.ParseFromString(request.body)) return respond(invalid_argument("no request"));
      ++lies;
      respond(mesh::Message{"", std::vector<std::byte>(wanted.size_bytes(), std::byte{1})});
    };
    callbacks.on_connect = [this](const mesh::Peer&) { reached = true; };
    mesh::ServerOptions options;
    options.host = "127.0.0.1";
    server_ = *mesh::Server::start(identity_, options, std::move(callbacks));
    client_ = *mesh::Client::connect(run, identity_);
    run::proto::HelloRequest hello;
    hello.set_protocol(run::kRunProtocol);
    hello.set_session(1);
    const auto reply = client_->call("hello", {hello.SerializeAsString(), {}}, kCallTimeout);
    EXPECT_TRUE(reply.ok()) << reply.status().to_string();
    run::proto::HelloReply answer;
    EXPECT_TRUE(answer.ParseFromString(reply->body));
    parameter_bytes_ = answer.manifest().parameter_count() * sizeof(float);
  }

  // Who gives the present parameters, this one excepted.
  std::optional<run::ParameterOffer> ask() {
    const auto reply = client_->call("donors", run::ParameterOffer::request(), kCallTimeout);
    EXPECT_TRUE(reply.ok()) << reply.status().to_string();
    if (!reply.ok()) return std::nullopt;
    auto offer = run::ParameterOffer::parse(*reply, parameter_bytes_, std::nullopt);
    EXPECT_TRUE(offer.ok()) << offer.status().to_string();
    if (!offer.ok() || !*offer) return std::nullopt;
    return **offer;
  }

  void pretend(const Digest& sha256) {
    run::proto::HeartbeatRequest beat;
    beat.set_serves_port(server_->port());
    beat.set_serves_sha256(std::string(reinterpret_cast<const char*>(sha256.data()), sha256.size()));
    const auto reply = client_->call("heartbeat", {beat.SerializeAsString(), {}}, kCallTimeout);
    EXPECT_TRUE(reply.ok()) << reply.status().to_string();
  }

  std::string short_id() const { return identity_.id().short_id(); }

  std::atomic<bool> reached = false;
  std::atomic<int> lies = 0;

 private:
  mesh::Identity identity_ = *mesh::Identity::generate();
  std::unique_ptr<mesh::Server> server_;
  std::unique_ptr<mesh::Client> client_;
  uint64_t parameter_bytes_ = 0;
};

class DonorsTest : public CommandTest {
 protected:
  // The coordinator's line lets 1 MB/s go to each node.
  Running coordinate() {
    write("text.txt", sample_text(4000));
    write("config.toml",
          "[data]\npath = \"text.txt\"\n[model]\nlayers = 4\nheads = 4\nwidth = 192\ncontext = 16\n[train]\n"
          "batch_size = 2\neval_batches = 1\nsteps = 20000\n[output]\ndirectory = \"model\"\n[run]\nworkers = 3\n"
          "inner_steps = \"2000\"\n");
    Running coordinator = start({"run", "start", "config.toml", "--listen", "127.0.0.1:0", "--address", "127.0.0.1",
                                 "--threads", "1", "--evaluate-every", "0", "--evaluation-windows", "2", "--no-lan",
                                 "--state", "state", "--upload-limit", "8", "--json"});
    EXPECT_TRUE(coordinator.wait_for_output(event("link"))) << coordinator.errors();
    link_ = field(coordinator.output(), "link");
    return coordinator;
  }

  Running join(const std::string& name, std::vector<std::string> more = {}) {
    std::vector<std::string> arguments{"join", link_, "--name", name, "--threads", "1", "--speed", "0.05", "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return start(arguments, {{"SPORKLE_HOME", (folder_ / name).string()}});
  }

  std::string link_;
};

TEST_F(DonorsTest, ALateWorkerFetchesFromSeveralOfWhomOneLiesAndOneIsKilled) {
  Running coordinator = coordinate();
  Running alpha = join("alpha", {"--serve-limit", "8"}), beta = join("beta", {"--serve-limit", "8"}),
          gamma = join("gamma", {"--serve-limit", "8"});
  Liar liar(*mesh::RunLink::parse(link_));
  std::optional<run::ParameterOffer> offer;
  ASSERT_TRUE(eventually([&] { return (offer = liar.ask()) && offer->donors.size() == 3; }))
      << coordinator.output() << alpha.errors() << beta.errors() << gamma.errors();
  liar.pretend(offer->sha256);
  ASSERT_TRUE(eventually([&] { return liar.reached.load(); })) << coordinator.errors();
  std::this_thread::sleep_for(300ms);  // until that is noted

  Running late = join("late");
  ASSERT_TRUE(late.wait_for_output(event("fetching"))) << late.output() << late.errors();
  liar.pretend(offer->sha256);
  std::this_thread::sleep_for(500ms);
  gamma.send_signal(SIGKILL);
  ASSERT_TRUE(late.wait_for_output(event("fetched"))) << late.output() << late.errors();
  const std::string message = field(event_line(late.output(), "fetched"), "message");
  // alpha, beta and the coordinator gave some of it, gamma if it lived to, the liar nothing.
  EXPECT_TRUE(message.find("from 4: coordinator ") != std::string::npos ||
              message.find("from 3: coordinator ") != std::string::npos)
      << message;
  EXPECT_NE(message.find(liar.short_id() + " failed: piece "), std::string::npos) << message;
  EXPECT_EQ(occurrences(message, " failed: "), 2u) << message;
  EXPECT_EQ(liar.lies, 1) << "a liar is asked no more";
  // Three are left, and the coordinator is the fastest of them.
  const int share = std::atoi(message.substr(message.find("coordinator ") + 12).c_str());
  EXPECT_GT(share, 10) << message;
  EXPECT_LE(share, 40) << message;
  // It was told only once the SHA-256 of the whole was the one that the coordinator named: the bits are right.
  EXPECT_TRUE(late.wait_for_output(event("ready"))) << late.output() << late.errors();
  EXPECT_EQ(occurrences(late.output(), event("fetched")), 1u) << late.output();
}

// One donor is too few to be worth while.
TEST_F(DonorsTest, NobodyServesWithNoServe) {
  Running coordinator = coordinate();
  Running alpha = join("alpha", {"--no-serve"}), beta = join("beta", {"--no-serve"}), gamma = join("gamma");
  Liar liar(*mesh::RunLink::parse(link_));
  ASSERT_TRUE(gamma.wait_for_output(event("lease_taken"))) << gamma.errors();
  std::this_thread::sleep_for(2s);
  EXPECT_FALSE(liar.ask()) << "one donor is too few";
  Running late = join("late");
  ASSERT_TRUE(late.wait_for_output(event("ready"))) << late.output() << late.errors();
  EXPECT_EQ(occurrences(late.output(), event("fetching")), 0u) << late.output();
}

}  // namespace
}  // namespace sporkle::testing
