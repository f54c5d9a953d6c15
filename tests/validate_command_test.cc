// Validates every operation on this processor, each instruction set with 1 and 2 threads, as `sporkle validate` does,
// and checks that docs/operations.md says what came out.
#include <fstream>
#include <sstream>

#include "tests/command.h"

namespace sporkle {
namespace {

class ValidateCommandTest : public testing::CommandTest {};

TEST_F(ValidateCommandTest, EveryOperationIsSoundAndDocumented) {
  const testing::Output output = run({"validate", "--device", "cpu", "--markdown"});
  EXPECT_EQ(output.exit_code, 0) << output.err;
  std::ifstream file(std::string(SPORKLE_SOURCE_DIR) + "/docs/operations.md");
  std::ostringstream page;
  page << file.rdbuf();
  EXPECT_EQ(output.out, page.str())
      << "docs/operations.md is not current: sporkle validate --device cpu --markdown > docs/operations.md";
}

TEST_F(ValidateCommandTest, PrintsOneObjectAnOperationAndASummary) {
  const testing::Output output = run({"validate", "--device", "reference", "--op", "add", "--rounds", "2", "--json"});
  ASSERT_EQ(output.exit_code, 0) << output.err;
  const std::vector<std::string> lines = testing::lines(output.out);
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(testing::field(lines[0], "operation"), "add");
  EXPECT_EQ(testing::field(lines[0], "calls"), "2");
  EXPECT_EQ(testing::field(lines[1], "failed"), "0");
}

TEST_F(ValidateCommandTest, NamesWhatItDoesNotKnow) {
  expect_failure({"validate", "--op", "additon"}, {"unknown operation \"additon\""});
  expect_failure({"validate", "--device", "null"}, {"computes nothing"});
  expect_failure({"validate", "--rounds", "0"}, {"--rounds"}, 2);
}

}  // namespace
}  // namespace sporkle
