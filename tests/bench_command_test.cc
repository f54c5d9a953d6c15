// `sporkle bench` as a user meets it: results that are kept, and what it refuses.
#include <filesystem>
#include <string>

#include "base/file.h"
#include "tests/command.h"

namespace sporkle::testing {
namespace {

class BenchCommandTest : public CommandTest {
 protected:
  // The lines of the only file in a folder.
  static std::vector<std::string> kept_in(const std::filesystem::path& folder) {
    std::vector<std::string> found;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      const Result<std::string> text = read_file(entry.path());
      EXPECT_TRUE(text.ok()) << text.status().to_string();
      if (text.ok()) found.push_back(*text);
    }
    EXPECT_EQ(found.size(), 1u);
    return found.empty() ? std::vector<std::string>() : lines(found[0]);
  }
};

TEST_F(BenchCommandTest, SavesWhatTheMachineAndTheProgramAre) {
  const std::string folder = (folder_ / "results").string();
  const std::vector<std::string> command = {"bench",  "launch",    "--shape", "host",   "--rounds",  "7",
                                            "--save", "--results", folder,    "--json", "--threads", "1"};
  const Output saved = run(command);
  ASSERT_EQ(saved.exit_code, 0) << saved.err;
  EXPECT_NE(saved.err.find("1 results are in "), std::string::npos) << saved.err;
  const std::vector<std::string> kept = kept_in(folder);
  ASSERT_EQ(kept.size(), 2u);
  EXPECT_EQ(field(kept[0], "name"), "machine");
  EXPECT_NE(kept[0].find("\"noise\":0."), std::string::npos) << kept[0];
  EXPECT_EQ(field(kept[1], "name"), "launch");
  EXPECT_EQ(kept[1], lines(saved.out)[0]);

  std::vector<std::string> named = command;
  named.insert(named.end(), {"--commit", "release candidate"});
  ASSERT_EQ(run(named).exit_code, 0);
  const std::vector<std::string> after = kept_in(folder);
  ASSERT_EQ(after.size(), 4u) << "another commit starts with a machine's line of its own";
  EXPECT_EQ(field(after[2], "commit"), "release candidate");
}

TEST_F(BenchCommandTest, MeasuresCallsBetweenNodes) {
  const Output measured = run({"bench", "rpc", "--rounds", "1", "--against", "none", "--json"});
  ASSERT_EQ(measured.exit_code, 0) << measured.err;
  std::string shapes;
  for (const std::string& line : lines(measured.out)) {
    shapes += field(line, "shape") + " ";
    EXPECT_EQ(field(line, "name"), "rpc");
    EXPECT_EQ(line.find("\"value\":0,"), std::string::npos) << line;
  }
  EXPECT_EQ(shapes, "calls p50 p99 stream message connect ");
  const Output refused = run({"bench", "rpc", "--against", "thrift"});
  EXPECT_NE(refused.exit_code, 0);
  EXPECT_NE(refused.err.find("thrift"), std::string::npos) << refused.err;
}

TEST_F(BenchCommandTest, AddsUpBetweenProcessesAndLosesOne) {
  const Output measured = run(
      {"bench", "allreduce", "--rounds", "1", "--processes", "3", "--mebibytes", "3", "--against", "none", "--json"});
  ASSERT_EQ(measured.exit_code, 0) << measured.err;
  const std::vector<std::string> rows = lines(measured.out);
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(field(rows[0], "shape"), "3MiBx3");
  EXPECT_EQ(field(rows[1], "shape"), "3MiBx3:killed");
  for (const std::string& row : rows) EXPECT_EQ(row.find("\"value\":0,"), std::string::npos) << row;
  const Output refused = run({"bench", "allreduce", "--against", "mpi"});
  EXPECT_NE(refused.exit_code, 0);
  EXPECT_NE(refused.err.find("mpi"), std::string::npos) << refused.err;
}

TEST_F(BenchCommandTest, ResumesWithWhatIsMissing) {
  const std::string folder = (folder_ / "results").string();
  const std::vector<std::string> command = {"bench",    "launch",    "--shape", "host",      "--rounds", "7",
                                            "--resume", "--results", folder,    "--threads", "1",        "--json"};
  ASSERT_EQ(lines(run(command).out).size(), 1u);
  std::vector<std::string> more = command;
  more.insert(more.end(), {"--shape", "chain"});
  const Output resumed = run(more);
  ASSERT_EQ(resumed.exit_code, 0) << resumed.err;
  EXPECT_NE(resumed.err.find("1 results are there already"), std::string::npos) << resumed.err;
  ASSERT_EQ(lines(resumed.out).size(), 1u) << resumed.out;
  EXPECT_EQ(field(lines(resumed.out)[0], "shape"), "chain");
  const Output nothing_left = run(more);
  EXPECT_EQ(nothing_left.exit_code, 0) << nothing_left.err;
  EXPECT_EQ(nothing_left.out, "");
}

TEST_F(BenchCommandTest, SaysWhatItRefuses) {
  expect_failure({"bench", "gem"}, {"gemm"}, 2);
  expect_failure({"bench", "gemm", "--rounds", "3"}, {"--rounds"}, 2);
  expect_failure({"bench", "gemm", "--shape", "12x13"}, {"\"12x13\" is not of the form MxNxK"});
  expect_failure({"bench", "gemm", "--dtype", "f65"}, {"no dtype \"f65\"", "f64"});
  expect_failure({"bench", "gemm", "--numerics", "exact"}, {"no numerics \"exact\"", "strict"});
  expect_failure({"bench", "gemm", "--against", "OpenBLASS"}, {"no rival \"OpenBLASS\"", "did you mean \"OpenBLAS\"?"});
  expect_failure({"bench", "copy", "--device", "cqu"}, {"cqu"});
  expect_failure({"bench", "launch", "--shape", "1000"}, {"none of latency, chain, host"});
}

}  // namespace
}  // namespace sporkle::testing
