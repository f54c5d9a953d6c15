// Runs that are found without a link's addresses: on the local network, from memory, from seed lists. Each test has two
// machines on a network of their own; where the system has none to give, the tests are skipped and say so.
#include <signal.h>

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>

#include "tests/command.h"
#include "tests/network.h"

namespace sporkle::testing {
namespace {

namespace fs = std::filesystem;
using std::chrono::steady_clock;

std::string event(const std::string& kind) { return "{\"event\":\"" + kind + "\""; }

class LanTest : public CommandTest {
 protected:
  static void SetUpTestSuite() {
    if (!network_) network_ = new Network;
  }

  void SetUp() override {
    if (!network_->error().empty()) GTEST_SKIP() << network_->error();
    CommandTest::SetUp();
    write("text.txt", sample_text(2000));
    config(1);
  }
  void TearDown() override {
    if (network_->error().empty()) CommandTest::TearDown();
  }

  // A run that starts when so many workers have come, and takes a moment.
  void config(int workers, int steps = 4) const {
    write("config.toml",
          "[data]\npath = \"text.txt\"\n[model]\nlayers = 1\nheads = 1\nwidth = 16\ncontext = 16\n[train]\n"
          "batch_size = 2\neval_batches = 1\nsteps = " +
              std::to_string(steps) +
              "\n[output]\ndirectory = \"model\"\n[run]\ninner_steps = "
              "\"2\"\nworkers = " +
              std::to_string(workers) + "\n");
  }

  // On the first machine. Each `name` is a node and a run of its own.
  Running coordinate(const std::string& name, const Arguments& more = {}) {
    network_->enter(Machine::first);
    Arguments arguments{"run",
                        "start",
                        "config.toml",
                        "--json",
                        "--threads",
                        "1",
                        "--name",
                        name,
                        "--state",
                        "state-" + name,
                        "--evaluate-every",
                        "0",
                        "--evaluation-windows",
                        "2"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    Running coordinator = start(arguments, {{"SPORKLE_HOME", (folder_ / name).string()}});
    EXPECT_TRUE(coordinator.wait_for_output(event("link"))) << coordinator.errors();
    link_ = field(coordinator.output(), "link");
    return coordinator;
  }

  // On the second machine, as `node`.
  Running join(const Arguments& how, const std::string& node = "worker") {
    network_->enter(Machine::second);
    Arguments arguments{"join", "--threads", "1", "--json"};
    arguments.insert(arguments.end(), how.begin(), how.end());
    Running worker = start(arguments, {{"SPORKLE_HOME", (folder_ / node).string()}});
    network_->enter(Machine::first);
    return worker;
  }

  static void expect_finished(Running& command) {
    const Output output = command.wait();
    EXPECT_EQ(output.exit_code, 0) << output.out << output.err;
    EXPECT_EQ(field(last_line(output.out), "event"), "summary") << output.out;
  }

  // The worker gets as far as being ready for work, and leaves.
  static void expect_joins(Running& worker) {
    EXPECT_TRUE(worker.wait_for_output(event("ready"))) << worker.errors();
    worker.send_signal(SIGTERM);
    const Output output = worker.wait();
    EXPECT_EQ(output.exit_code, 0) << output.err;
  }

  // The run's link without its addresses.
  std::string bare_link() const {
    const size_t at = link_.find('@'), slash = link_.find('/', at);
    return link_.substr(0, at) + link_.substr(slash);
  }
  std::string with_address(const std::string& address) const {
    std::string link = bare_link();
    return link.insert(link.find('/', std::string("sporkle://").size()), "@" + address);
  }
  static std::string short_id(const std::string& link) { return link.substr(std::string("sporkle://").size(), 8); }

  static Network* network_;
  std::string link_;
};

Network* LanTest::network_ = nullptr;

TEST_F(LanTest, JoinsTheOnlyRunWithoutAnyConfiguration) {
  Running coordinator = coordinate("lab");
  Running worker = join({"--lan"});
  expect_finished(worker);
  expect_finished(coordinator);
}

// Two machines and a cable: no address was ever given to them.
TEST_F(LanTest, IPv6LinkLocalAddressesAreEnough) {
  network_->use_ipv4(false);
  Running coordinator = coordinate("lab");
  EXPECT_EQ(link_.find("10.77.0.1"), std::string::npos) << link_;
  const Output list = join({"--lan", "--list"}).wait();
  EXPECT_TRUE(field(list.out, "address").starts_with("[fe80::")) << list.out;
  EXPECT_EQ(field(list.out, "verified"), "true") << list.out;
  Running worker = join({"--lan"});
  expect_finished(worker);
  expect_finished(coordinator);
  network_->use_ipv4(true);
}

TEST_F(LanTest, ListsSeveralRunsAndJoinsTheOneNamed) {
  Running first = coordinate("first");
  const std::string first_id = short_id(link_);
  Running second = coordinate("second");
  const std::string second_id = short_id(link_);
  const auto before = steady_clock::now();
  const Output list = join({"--lan", "--list"}).wait();
  EXPECT_LT(steady_clock::now() - before, std::chrono::seconds(10)) << "about a second on an idle machine";
  ASSERT_EQ(list.exit_code, 0) << list.err;
  ASSERT_EQ(lines(list.out).size(), 2u) << list.out;
  for (const std::string& line : lines(list.out)) {
    EXPECT_EQ(field(line, "event"), "run");
    EXPECT_EQ(field(line, "verified"), "true") << line;
    EXPECT_EQ(field(line, "short_id"), field(line, "name") == "first" ? first_id : second_id) << line;
    EXPECT_TRUE(field(line, "address").starts_with("10.77.0.1:") || field(line, "address").starts_with("[fe80::"))
        << line;
  }
  const Output which = join({"--lan"}).wait();
  EXPECT_EQ(which.exit_code, 1);
  EXPECT_NE(which.err.find("several runs are on this network"), std::string::npos) << which.err;
  EXPECT_NE(which.err.find(first_id), std::string::npos) << which.err;
  EXPECT_NE(which.err.find(second_id), std::string::npos) << which.err;
  const Output unknown = join({"--lan", "nonsense"}).wait();
  EXPECT_EQ(unknown.exit_code, 1);
  EXPECT_NE(unknown.err.find("is called 'nonsense'"), std::string::npos) << unknown.err;

  Running worker = join({"--lan", "second"});
  expect_finished(worker);
  expect_finished(second);
  EXPECT_EQ(occurrences(first.output(), event("worker_joined")), 0u);
}

TEST_F(LanTest, NoLanKeepsARunOffTheNetwork) {
  Running coordinator = coordinate("quiet", {"--no-lan"});
  const Output output = join({"--lan"}).wait();
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_NE(output.err.find("no run announces itself on this network"), std::string::npos) << output.err;
  EXPECT_NE(output.err.find("--no-lan"), std::string::npos) << output.err;
  const Output bare = join({bare_link()}).wait();
  EXPECT_EQ(bare.exit_code, 1);
  EXPECT_NE(bare.err.find("has no address"), std::string::npos) << bare.err;
}

// A coordinator that listens on loopback alone is found on its own machine, and not from the other.
TEST_F(LanTest, LoopbackStaysOnTheMachine) {
  Running coordinator = coordinate("local", {"--listen", "127.0.0.1:0", "--address", "127.0.0.1"});
  EXPECT_EQ(join({"--lan"}).wait().exit_code, 1);
  Running worker = start({"join", "--lan", "--threads", "1", "--json"}, {{"SPORKLE_HOME", (folder_ / "w").string()}});
  expect_finished(worker);
  expect_finished(coordinator);
}

TEST_F(LanTest, ALinkWithoutAddressesOpensFromMemory) {
  config(2);  // it waits for a second worker, who never comes
  Running coordinator = coordinate("lab", {"--no-lan"});
  Running worker = join({link_});
  expect_joins(worker);
  EXPECT_NE(read("worker/known_runs").find("record sporkle-record:"), std::string::npos) << read("worker/known_runs");
  const Output stranger = join({bare_link()}, "stranger").wait();
  EXPECT_EQ(stranger.exit_code, 1) << "whoever was never there does not know";
  // Gone, and out of date: nobody listens on port 1.
  for (const std::string& link : {bare_link(), with_address("10.77.0.1:1")}) {
    Running again = join({link});
    expect_joins(again);
  }
  // A damaged memory is said, and done without.
  write("worker/known_runs", "rubbish");
  const Output damaged = join({bare_link()}).wait();
  EXPECT_EQ(damaged.exit_code, 1);
  EXPECT_NE(damaged.err.find("known_runs, which remembers runs, is ignored"), std::string::npos) << damaged.err;
  Running last = join({link_});
  expect_joins(last);
  EXPECT_NE(read("worker/known_runs").find("sporkle known runs 1"), std::string::npos);
}

TEST_F(LanTest, ALinkWithoutAddressesOpensFromASeedList) {
  Running coordinator = coordinate("lab", {"--no-lan"});
  const std::string lab_link = link_;
  const std::string seeds = "# runs of our group\n" + read("state-lab/record");
  write("seeds.txt", seeds);
  Running other = coordinate("other", {"--no-lan"});
  write("others.txt", read("state-other/record"));
  link_ = lab_link;
  Running worker = join({"--seeds", "others.txt", "--seeds", "seeds.txt", bare_link()});
  expect_finished(worker);
  expect_finished(coordinator);
  // A list that somebody has tampered with helps nobody.
  std::string forged = seeds;
  char& letter = forged[forged.size() - 60];
  letter = letter == 'a' ? 'b' : 'a';
  write("forged.txt", forged);
  const Output output = join({bare_link(), "--seeds", "forged.txt"}, "stranger").wait();
  EXPECT_EQ(output.exit_code, 1);
  EXPECT_NE(output.err.find("forged"), std::string::npos) << output.err;
  const Output missing = join({bare_link(), "--seeds", "missing.txt"}, "stranger").wait();
  EXPECT_NE(missing.err.find("cannot read the seed list missing.txt"), std::string::npos) << missing.err;
}

// `run status` looks where `join` does.
TEST_F(LanTest, StatusFindsARunByTheNetworkAndByASeedList) {
  config(2);
  Running coordinator = coordinate("lab");
  write("seeds.txt", read("state-lab/record"));
  const auto status = [&](const Arguments& how) {
    network_->enter(Machine::second);
    Arguments arguments{"run", "status", "--json"};
    arguments.insert(arguments.end(), how.begin(), how.end());
    Running command = start(arguments, {{"SPORKLE_HOME", (folder_ / "watcher").string()}});
    network_->enter(Machine::first);
    return command.wait();
  };
  for (const Arguments& how :
       {Arguments{"--lan"}, Arguments{"--lan", "lab"}, Arguments{"--lan", short_id(link_)},
        Arguments{"--seeds", "seeds.txt", bare_link()}, Arguments{"--lan", with_address("10.77.0.1:1")}}) {
    const Output output = status(how);
    EXPECT_EQ(output.exit_code, 0) << output.err;
    EXPECT_EQ(field(output.out, "event"), "status") << output.out;
  }
  const Output other = status({"--lan", "elsewhere"});
  EXPECT_EQ(other.exit_code, 1) << other.out;
}

// The link has an address that nobody answers at; the network knows better.
TEST_F(LanTest, AStaleLinkOpensByTheNetwork) {
  config(2);
  Running coordinator = coordinate("lab");
  Running bare = join({bare_link()}, "one");
  expect_joins(bare);
  Running stale = join({with_address("10.77.0.1:1"), "--lan"}, "two");
  expect_joins(stale);
}

// A coordinator that comes back elsewhere: who looks on the network finds it again.
TEST_F(LanTest, AWorkerFollowsACoordinatorThatMoves) {
  config(1, 100'000);
  std::optional<Running> coordinator(coordinate("lab"));
  Running worker = join({"--lan", "--speed", "0.2"});
  ASSERT_TRUE(worker.wait_for_output(event("accepted"))) << worker.errors();
  coordinator->send_signal(SIGKILL);
  coordinator->wait();
  fs::remove(folder_ / "state-lab" / "port");  // another port
  coordinator.emplace(coordinate("lab"));
  EXPECT_TRUE(worker.wait_for_output(event("reconnected"))) << worker.errors();
  EXPECT_TRUE(coordinator->wait_for_output(event("round_closed"))) << coordinator->errors();
  expect_joins(worker);
}

TEST_F(LanTest, SaysHowARunIsNamed) {
  expect_failure({"join"}, {"which run?", "--lan"});
  expect_failure({"join", "tiny"}, {"'tiny' is not a run link", "add --lan"});
  expect_failure({"run", "status"}, {"which run?", "--lan"});
  expect_failure({"run", "status", "tiny"}, {"'tiny' is not a run link", "add --lan"});
}

}  // namespace
}  // namespace sporkle::testing
