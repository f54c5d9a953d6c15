// `sporkle profile`: where a command's time goes.
#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/command.h"

namespace sporkle::testing {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class ProfileCommandTest : public CommandTest {
 protected:
  void SetUp() override {
    CommandTest::SetUp();
    write("text.txt", sample_text(2000));
    write("config.toml",
          "[data]\npath = \"text.txt\"\n[model]\nlayers = 1\nheads = 2\nwidth = 32\ncontext = 16\n[output]\n"
          "directory = \"model\"\n[train]\nbatch_size = 2\neval_batches = 1\nsteps = 2\n");
  }
};

TEST_F(ProfileCommandTest, ListsKernelsWithRatesAndLinesOfCode) {
  const Output output = run({"profile", "--top", "3", "--output", "trace.json", "--", "train", "config.toml"});
  ASSERT_EQ(output.exit_code, 0) << output.err;
  for (const char* part : {"total ms", "FLOP/s", "src/nn/", "kernels more; --top",
                           "roof of cpu, measured now: ", "launches ", "trace.json: open it"})
    EXPECT_NE(output.out.find(part), std::string::npos) << part << "\n" << output.out;
  const json events = json::parse(read("trace.json"), nullptr, false);
  ASSERT_TRUE(events.is_array());
  EXPECT_GT(events.size(), 50u);
}

TEST_F(ProfileCommandTest, PrintsJson) {
  const Output output = run({"profile", "--json", "--top", "1000", "--", "train", "config.toml"});
  ASSERT_EQ(output.exit_code, 0) << output.err;
  double share = 0;
  bool has_matmul = false;
  for (const std::string& line : lines(output.out)) {
    const json row = json::parse(line, nullptr, false);
    ASSERT_TRUE(row.is_object()) << line;
    share += row["share"].get<double>();
    EXPECT_GE(row["calls"].get<int64_t>(), 1);
    EXPECT_GT(row["bytes"].get<double>(), 0) << line;
    if (row["kernel"] != "matmul") continue;
    has_matmul = true;
    EXPECT_GT(row["flops_per_second"].get<double>(), 0) << line;
    EXPECT_GT(row["percent_of_roofline"].get<double>(), 0) << line;
  }
  EXPECT_NEAR(share, 1, 1e-6);
  EXPECT_TRUE(has_matmul);
}

TEST_F(ProfileCommandTest, ShowsTheLaunchesOfVulkanDevices) {
  if (run({"devices"}).out.find("vulkan:0") == std::string::npos) GTEST_SKIP() << "no Vulkan device here";
  const Output output = run({"profile", "--json", "--output", "trace.json", "--", "bench", "launch", "--shape", "chain",
                             "--rounds", "7", "--device", "vulkan:0"});
  ASSERT_EQ(output.exit_code, 0) << output.err;
  ASSERT_FALSE(lines(output.out).empty());
  const json row = json::parse(lines(output.out)[0], nullptr, false);
  ASSERT_TRUE(row.is_object()) << output.out;
  EXPECT_EQ(row["device"], "vulkan:0");
  EXPECT_GE(row["calls"].get<int64_t>(), 7000);
  EXPECT_GT(row["seconds"].get<double>(), 0);
  // In the trace they follow each other on the device's own line.
  const json events = json::parse(read("trace.json"), nullptr, false);
  ASSERT_TRUE(events.is_array());
  double last_end_us = 0;
  size_t launches = 0;
  for (const json& event : events) {
    if (event.value("cat", "") != "launch" || event["args"].value("device", "") != "vulkan:0") continue;
    ++launches;
    EXPECT_GE(event["ts"].get<double>() + 1000, last_end_us) << "a launch begins well before the one before it ends";
    last_end_us = event["ts"].get<double>() + event["dur"].get<double>();
  }
  EXPECT_GE(launches, 7000u);
}

TEST_F(ProfileCommandTest, ProfilesOtherProgramsAndPassesFailuresOn) {
  const Output shell = run({"profile", "--output", "t.json", "--", "sh", "-c", "exit 0"});
  EXPECT_EQ(shell.exit_code, 0) << shell.err;
  EXPECT_NE(shell.err.find("wrote no trace: is it a program that uses Sporkle?"), std::string::npos) << shell.err;
  expect_failure({"profile", "--", "sh", "-c", "exit 3"}, {"sh ended with exit code 3"});
  expect_failure({"profile", "--", "no-such-program"}, {"cannot run no-such-program", "neither a command of sporkle"});
  expect_failure({"profile"}, {"which command?"});
  expect_failure({"profile", "--output", "no/folder/t.json", "--", "devices"}, {"no/folder/t.json"});
}

}  // namespace
}  // namespace sporkle::testing
