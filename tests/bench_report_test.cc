// Results that were kept, as a user works with them: comparing two files.
#include <string>

#include "tests/command.h"

namespace sporkle::testing {
namespace {

class BenchReportTest : public CommandTest {
 protected:
  static std::string machine(const std::string& cpu = "Small") {
    return R"({"name":"machine","machine":"small-2-cores","date":"2026-01-02","cpu":")" + cpu +
           R"(","cores":2,"commit":"0123abc","noise":0.01})" + "\n";
  }
  static std::string row(const std::string& name, double value, const std::string& unit = "GFLOP/s") {
    return R"({"name":")" + name + R"(","shape":"64x64x64","dtype":"f32","numerics":"strict","device":"cpu",)" +
           R"("threads":2,"value":)" + std::to_string(value) + R"(,"unit":")" + unit + R"(","rounds":9,"noise":0.02})" +
           "\n";
  }
};

TEST_F(BenchReportTest, CompareFindsAPlantedSlowdown) {
  write("old.jsonl", machine() + row("gemm", 100) + row("launch", 3, "us") + row("copy", 20) + row("gone", 1));
  write("same.jsonl", machine() + row("gemm", 99) + row("launch", 3.02, "us") + row("copy", 20.1) + row("gone", 1));
  write("slow.jsonl", machine() + row("gemm", 100 / 1.15) + row("launch", 3, "us") + row("copy", 30) + row("here", 1));

  for (const char* file : {"old.jsonl", "same.jsonl"}) {
    const Output same = run({"bench", "compare", "old.jsonl", file});
    EXPECT_EQ(same.exit_code, 0) << same.err;
    EXPECT_EQ(last_line(same.out), "4 rows compared: 0 slower, 0 faster, 4 unchanged within the noise");
  }
  const Output slow = run({"bench", "compare", "old.jsonl", "slow.jsonl"});
  EXPECT_EQ(slow.exit_code, 1);
  EXPECT_NE(slow.err.find("1 row is slower than the noise explains"), std::string::npos) << slow.err;
  for (const char* part : {"slower:\n  gemm 64x64x64", "15.0 % slower", "faster:\n  copy", "50.0 % faster",
                           "only in the old results:\n  gone", "only in the new results:\n  here",
                           "3 rows compared: 1 slower, 1 faster, 1 unchanged"})
    EXPECT_NE(slow.out.find(part), std::string::npos) << part << "\n" << slow.out;
  EXPECT_EQ(run({"bench", "compare", "old.jsonl", "slow.jsonl", "--threshold", "0.2"}).exit_code, 0);

  const Output json = run({"bench", "compare", "old.jsonl", "slow.jsonl", "--json"});
  EXPECT_EQ(json.exit_code, 1);
  ASSERT_EQ(lines(json.out).size(), 5u) << json.out;
  EXPECT_EQ(field(lines(json.out)[0], "verdict"), "slower");
  EXPECT_EQ(field(lines(json.out)[3], "verdict"), "missing");
  EXPECT_EQ(field(lines(json.out)[4], "verdict"), "new");
}

TEST_F(BenchReportTest, CompareSaysWhatIsWrongWithItsFiles) {
  write("good.jsonl", machine() + row("gemm", 100));
  write("other.jsonl", machine("Large") + row("gemm", 50));
  write("bad.jsonl", machine() + row("gemm", 100) + "{\"name\":\"gemm\",\"shape\":7}\n");
  expect_failure({"bench", "compare", "good.jsonl", "missing.jsonl"}, {"missing.jsonl", "No such file"});
  expect_failure({"bench", "compare", "bad.jsonl", "good.jsonl"}, {"bad.jsonl:3: ", "\"shape\"", "7"});
  expect_failure({"bench", "compare", "good.jsonl", "other.jsonl"}, {"Small", "Large", "--across-machines"});
  expect_failure({"bench", "compare", "good.jsonl", "other.jsonl", "--across-machines"},
                 {"warning: ", "Large", "1 row is slower"});
  expect_failure({"bench", "compare", "good.jsonl"}, {"new is required"}, 2);
  expect_failure({"bench", "compare", "good.jsonl", "good.jsonl", "--threshold", "0"}, {"--threshold"}, 2);
}

}  // namespace
}  // namespace sporkle::testing
