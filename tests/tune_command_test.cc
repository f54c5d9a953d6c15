// `sporkle tune`: results a person can read, a database that goes on, and what it says to bad input.
#include "tests/command.h"

namespace sporkle::testing {
namespace {

class TuneCommandTest : public CommandTest {};

TEST_F(TuneCommandTest, FindsAPlanAndKnowsItTheSecondTime) {
  const Output first = run({"tune", "--shape", "64x96x32", "--budget", "0.5s", "--output", "plans.txt", "--json"});
  ASSERT_EQ(first.exit_code, 0) << first.err;
  EXPECT_NE(first.out.find("\"shape\":\"f32 nn 1x64x96x32\""), std::string::npos) << first.out;
  EXPECT_NE(first.out.find("\"known\":false"), std::string::npos) << first.out;
  const Output second = run({"tune", "--shape", "64x96x32", "--output", "plans.txt", "--json"});
  EXPECT_NE(second.out.find("\"known\":true"), std::string::npos) << second.out << second.err;
}

TEST_F(TuneCommandTest, TunesAGpu) {
  if (run({"devices", "--json"}).out.find("\"vulkan:0\"") == std::string::npos) GTEST_SKIP() << "no device vulkan:0";
  const std::vector<std::string> command{"tune",     "--device", "vulkan:0", "--shape",   "64x96x32",
                                         "--budget", "1s",       "--output", "plans.txt", "--json"};
  const Output first = run(command);
  ASSERT_EQ(first.exit_code, 0) << first.err;
  EXPECT_NE(first.out.find("\"device\":\"vulkan:0\",\"shape\":\"f32 nn 1x64x96x32\",\"plan\":\"tile"),
            std::string::npos)
      << first.out;
  EXPECT_NE(first.out.find("\"known\":false"), std::string::npos) << first.out;
  const Output second = run(command);
  EXPECT_NE(second.out.find("\"known\":true"), std::string::npos) << second.out << second.err;
}

TEST_F(TuneCommandTest, ExplainsBadInput) {
  expect_failure({"tune"}, {"nothing to tune", "--shape"});
  expect_failure({"tune", "--shape", "12x"}, {"12x"});
  expect_failure({"tune", "--shape", "8x8x8", "--budget", "soon"}, {"budget", "soon"});
  expect_failure({"tune", "--device", "vulkan:77", "--shape", "8x8x8"}, {"vulkan"});
  expect_failure({"tune", "--device", "reference", "--shape", "8x8x8"}, {"reference", "cannot be tuned"});
  expect_failure({"tune", "--config", "none.toml"}, {"none.toml"});
}

TEST_F(TuneCommandTest, BeginsANewDatabaseWhereOneIsCorrupt) {
  write("plans.txt", "nonsense\n");
  const Output output = run({"tune", "--shape", "8x8x8", "--budget", "0.1s", "--output", "plans.txt", "--json"});
  EXPECT_EQ(output.exit_code, 0) << output.err;
  EXPECT_NE(output.err.find("line 1"), std::string::npos) << output.err;
}

}  // namespace
}  // namespace sporkle::testing
