// The content store's commands, with real processes: a fetch that is killed goes on, from another node too; what is
// corrupt is found and fetched again.
#include <signal.h>

#include <filesystem>
#include <thread>

#include "base/file.h"
#include "tests/command.h"

namespace sporkle::testing {
namespace {

namespace fs = std::filesystem;

class ContentCommandTest : public CommandTest {
 protected:
  Environment home(const std::string& name) const { return {{"SPORKLE_HOME", (folder_ / name).string()}}; }
  static std::string noise(size_t size) {
    std::string text(size, ' ');
    uint64_t word = 1;
    for (char& c : text) c = static_cast<char>((word = word * 6364136223846793005u + 1442695040888963407u) >> 56);
    return text;
  }
  Running serve(const std::string& name, const std::vector<std::string>& more = {}) {
    Arguments arguments{"content", "serve", "--listen", "127.0.0.1:0", "--address", "127.0.0.1", "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    Running server = start(arguments, home(name));
    EXPECT_TRUE(server.wait_for_output("\"link\":")) << server.errors();
    return server;
  }
};

TEST_F(ContentCommandTest, AKilledGetGoesOnFromTwoNodes) {
  const std::string data = noise(6'000'000);
  write("weights.bin", data);
  std::string root;
  for (const char* name : {"a", "b"}) {
    const Output added = run({"content", "add", "weights.bin", "--kind", "checkpoint", "--json"}, home(name));
    ASSERT_EQ(added.exit_code, 0) << added.err;
    root = field(added.out, "root");
  }
  Running a = serve("a", {"--upload-limit", "16"}), b = serve("b");
  const std::string link_a = field(a.output(), "link"), link_b = field(b.output(), "link");
  Running get = start({"content", "get", link_a, "--json"}, home("c"));
  const fs::path partial = folder_ / "c" / "content" / "entries" / root / "partial";
  for (int i = 0; i < 3000 && !fs::exists(partial); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  std::this_thread::sleep_for(std::chrono::milliseconds(1200));
  get.send_signal(SIGKILL);
  EXPECT_EQ(get.wait().exit_code, 128 + SIGKILL);
  EXPECT_TRUE(fs::exists(partial));
  EXPECT_EQ(field(run({"content", "list", "--json"}, home("c")).out, "complete"), "false");
  expect_failure({"content", "serve", "weights.bin"}, {"content list"});

  const Output got = run({"content", "get", link_a, "--from", link_b, "--output", "copy.bin", "--json"}, home("c"));
  ASSERT_EQ(got.exit_code, 0) << got.err;
  const int resumed = std::atoi(field(got.out, "resumed_bytes").c_str());
  EXPECT_GT(resumed, 500'000);
  EXPECT_LT(resumed, 6'000'000);
  EXPECT_EQ(std::atoi(field(got.out, "fetched_bytes").c_str()), 6'000'000 - resumed);
  EXPECT_EQ(occurrences(got.out, "\"node\":"), 2u) << got.out;
  EXPECT_EQ(read("copy.bin"), data);

  // Two bytes change on the disk; verify says so, and with --repair asks the nodes that it came from.
  const fs::path stored = field(got.out, "path");
  std::string spoilt = data;
  spoilt[100] ^= 1;
  spoilt[5'999'999] ^= 1;
  ASSERT_TRUE(write_file_atomically(stored, spoilt).ok());
  const Output verified = run({"content", "verify", "--json"}, home("c"));
  EXPECT_EQ(verified.exit_code, 1);
  EXPECT_EQ(field(verified.out, "corrupt_pieces"), "2") << verified.out;
  const Output repaired = run({"content", "verify", "--repair"}, home("c"));
  EXPECT_EQ(repaired.exit_code, 0) << repaired.out << repaired.err;
  EXPECT_NE(repaired.out.find("repaired, "), std::string::npos) << repaired.out;
  EXPECT_EQ(*read_file(stored), data);
  EXPECT_EQ(run({"content", "remove", "weights.bin"}, home("a")).exit_code, 1) << "it is being served";
  a.send_signal(SIGTERM);
  EXPECT_EQ(a.wait().exit_code, 0);
  EXPECT_EQ(run({"content", "remove", "weights.bin"}, home("a")).exit_code, 0);
}

TEST_F(ContentCommandTest, BadInputIsNamed) {
  write("small.bin", noise(2'000'000));
  expect_failure({"content", "add", "nothing.bin", "--store", "s"}, {"nothing.bin"});
  expect_failure({"content", "add", "small.bin", "--store", "s", "--quota", "0.001"}, {"quota", "--quota"});
  expect_failure({"content", "add", "small.bin", "--store", "s", "--kind", "film"}, {"film"}, 2);
  expect_failure({"content", "get", "small.bin", "--store", "s"}, {"content list"});
  expect_failure({"content", "get", "sporkle://x", "--store", "s"}, {"sporkle://"});
  expect_failure({"content", "serve", "--store", "s"}, {"content add"});
  ASSERT_EQ(run({"content", "add", "small.bin", "--store", "s", "--pin"}).exit_code, 0);
  expect_failure({"content", "get", "small.bin", "--store", "s"}, {"--from"});
  write("other.bin", noise(1'000'000));
  expect_failure({"content", "add", "other.bin", "--store", "s", "--quota", "0.0025"}, {"pinned or in use"});
  EXPECT_EQ(run({"content", "pin", "small.bin", "--off", "--store", "s"}).exit_code, 0);
  EXPECT_EQ(run({"content", "add", "other.bin", "--store", "s", "--quota", "0.0025"}).exit_code, 0);
  const Output listed = run({"content", "list", "--store", "s"});
  EXPECT_EQ(listed.out.find("small.bin"), std::string::npos) << listed.out;
  EXPECT_NE(listed.out.find("other.bin"), std::string::npos) << listed.out;
}

}  // namespace
}  // namespace sporkle::testing
