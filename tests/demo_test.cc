// The commands that show a mesh on one machine: the demo, and how fast a node joins.
#include <cstdlib>
#include <string>

#include "tests/command.h"

namespace sporkle::testing {
namespace {

double value(const std::string& json, const std::string& name) {
  const std::string text = field(json, name);
  EXPECT_NE(text, "") << name << " in " << json;
  return std::atof(text.c_str());
}

class DemoTest : public CommandTest {};

// A short demo learns little, but everything of it happens.
TEST_F(DemoTest, OneIsKilledAndOneJoins) {
  const Output output = run({"demo", "--tokens", "60000", "--json"});
  if (output.exit_code != 0 && output.err.find("bible-kjv-text") != std::string::npos)
    GTEST_SKIP() << "the demo's text is not installed: " << output.err;
  ASSERT_EQ(output.exit_code, 0) << output.out << output.err;
  EXPECT_NE(output.out.find("SIGKILL"), std::string::npos) << output.out;
  const std::string summary = last_line(output.out);
  EXPECT_EQ(field(summary, "event"), "summary");
  EXPECT_EQ(field(summary, "workers_joined"), "5") << output.out;
  EXPECT_EQ(field(summary, "workers_lost"), "1") << output.out;
  EXPECT_GE(value(summary, "tokens"), 60000);
  EXPECT_GE(value(summary, "rounds"), 5);
  EXPECT_GT(value(summary, "seconds"), 0);
  // Nats a byte; ln 256 is what a model has that knows nothing.
  for (const char* loss : {"validation_loss", "synchronous_validation_loss"}) {
    EXPECT_GT(value(summary, loss), 1.0) << loss;
    EXPECT_LT(value(summary, loss), 4.0) << loss;
  }
  EXPECT_GT(value(summary, "bytes_per_node"), 0);
  EXPECT_GT(value(summary, "all_reduce_bytes_per_node"), value(summary, "bytes_per_node"));
  const Output shown = run({"checkpoint", "show", field(summary, "checkpoint"), "--json"});
  EXPECT_EQ(shown.exit_code, 0) << shown.err;
  const Output written = run({"generate", field(summary, "checkpoint"), "-n", "20"});
  EXPECT_EQ(written.exit_code, 0) << written.err;
}

TEST_F(DemoTest, UnknownTextsAreNamed) { expect_failure({"demo", "--corpus", "kjw", "--json"}, {"kjw", "kjv"}); }

TEST_F(DemoTest, JoiningIsMeasured) {
  const Output output = run({"bench", "join", "--count", "3", "--json"});
  ASSERT_EQ(output.exit_code, 0) << output.err;
  const std::vector<std::string> records = lines(output.out);
  ASSERT_EQ(records.size(), 4u) << output.out;
  EXPECT_EQ(field(records[0], "shape"), "p50");
  EXPECT_EQ(field(records[1], "shape"), "p99");
  EXPECT_EQ(field(records[2], "shape"), "80ms_p50");
  EXPECT_EQ(field(records[3], "shape"), "80ms_p99");
  EXPECT_GE(value(records[2], "value"), 4 * 80) << "connecting, TLS, joining and the parameters";
  // mesh_test counts the round trips one by one; here other tests may have the processors.
  EXPECT_LT(value(records[2], "value"), 10 * 80) << "far more round trips than need be";
  EXPECT_EQ(field(records[0], "unit"), "ms");
  EXPECT_EQ(field(records[0], "rounds"), "3");
  EXPECT_GT(value(records[0], "value"), 0);
  EXPECT_GE(value(records[1], "value"), value(records[0], "value"));
  EXPECT_EQ(run({"bench", "join", "--count", "0"}).exit_code, 2);
}

}  // namespace
}  // namespace sporkle::testing
