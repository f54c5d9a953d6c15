#include "apps/sporkle/cli.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace sporkle::app {
namespace {

struct Outcome {
  int exit_code = -1;
  std::string out, err;
};

// A command line over a few commands that record what they were given.
class CliTest : public testing::Test {
 protected:
  CliTest() {
    Command train = cli_.command("train", "Train a model");
    train.option("config", &config_, "The configuration").required().value_name("FILE");
    train.option("-s,--steps", &steps_, "Optimiser steps").range(1, 1000);
    train.option("--rate", &rate_, "Learning rate");
    train.option("--device", &device_, "Where to compute").one_of({"cpu", "null"});
    train.option("--set", &settings_, "Overrides");
    train.flag("--json", &json_, "Events as JSON");
    train.example("train a.toml --steps 10", "Trains for ten steps.");
    train.action([this, train] {
      ++trained_;
      steps_given_ = train.given("--steps");
      return result_;
    });
    Command run = cli_.command("run", "Training runs");
    run.command("start", "Start a run").action([this] {
      ++started_;
      return Status();
    });
    run.command("status", "Show a run").action([] { return Status(); });
  }

  Outcome run(std::vector<const char*> arguments) {
    arguments.insert(arguments.begin(), "/somewhere/sporkle");
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    Outcome outcome;
    outcome.exit_code = cli_.run(static_cast<int>(arguments.size()), arguments.data());
    outcome.out = testing::internal::GetCapturedStdout();
    outcome.err = testing::internal::GetCapturedStderr();
    return outcome;
  }

  Cli cli_;
  std::string config_, device_ = "cpu";
  int64_t steps_ = 100;
  double rate_ = 0.5;
  std::vector<std::string> settings_;
  bool json_ = false, steps_given_ = false;
  int trained_ = 0, started_ = 0;
  Status result_;
};

TEST_F(CliTest, RunsTheChosenCommandWithItsOptions) {
  const Outcome outcome =
      run({"train", "a.toml", "--steps", "7", "--rate=1e-3", "--json", "--set", "a=1", "--set", "b=2"});
  EXPECT_EQ(outcome.exit_code, kExitOk) << outcome.err;
  EXPECT_EQ(trained_, 1);
  EXPECT_EQ(config_, "a.toml");
  EXPECT_EQ(steps_, 7);
  EXPECT_EQ(rate_, 1e-3);
  EXPECT_TRUE(json_);
  EXPECT_TRUE(steps_given_);
  EXPECT_EQ(settings_, (std::vector<std::string>{"a=1", "b=2"}));
  EXPECT_EQ(outcome.out + outcome.err, "");
}

TEST_F(CliTest, LeavesDefaultsAlone) {
  EXPECT_EQ(run({"train", "a.toml"}).exit_code, kExitOk);
  EXPECT_EQ(steps_, 100);
  EXPECT_FALSE(steps_given_);
}

TEST_F(CliTest, RunsCommandsOfCommands) {
  EXPECT_EQ(run({"run", "start"}).exit_code, kExitOk);
  EXPECT_EQ(started_, 1);
  EXPECT_EQ(trained_, 0);
}

TEST_F(CliTest, AFailureIsPrintedWithTheCommandsName) {
  result_ = not_found("no file a.toml");
  const Outcome outcome = run({"train", "a.toml"});
  EXPECT_EQ(outcome.exit_code, kExitFailure);
  EXPECT_EQ(outcome.err, "sporkle train: no file a.toml\n");
}

TEST_F(CliTest, WithoutACommandPrintsHelpAndFails) {
  const Outcome outcome = run({});
  EXPECT_EQ(outcome.exit_code, kExitUsage);
  EXPECT_NE(outcome.err.find("train"), std::string::npos);
}

TEST_F(CliTest, HelpListsCommandsAndOptionsAndExamples) {
  Outcome outcome = run({"--help"});
  EXPECT_EQ(outcome.exit_code, kExitOk);
  for (const char* part : {"Usage: sporkle", "train", "Train a model", "run", "Training runs", "--version"}) {
    EXPECT_NE(outcome.out.find(part), std::string::npos) << part << "\n" << outcome.out;
  }
  outcome = run({"train", "--help"});
  EXPECT_EQ(outcome.exit_code, kExitOk);
  for (const char* part : {"Usage: sporkle train", "--steps", "Optimiser steps", "100",
                           "Examples:", "sporkle train a.toml --steps 10", "Trains for ten steps."}) {
    EXPECT_NE(outcome.out.find(part), std::string::npos) << part << "\n" << outcome.out;
  }
  EXPECT_EQ(trained_, 0);
}

TEST_F(CliTest, PrintsTheVersion) {
  const Outcome outcome = run({"--version"});
  EXPECT_EQ(outcome.exit_code, kExitOk);
  EXPECT_TRUE(outcome.out.starts_with("sporkle ")) << outcome.out;
  EXPECT_EQ(outcome.out.back(), '\n');
}

struct Mistake {
  std::vector<const char*> arguments;
  const char* message;
};

class CliMistakeTest : public CliTest, public testing::WithParamInterface<Mistake> {};

TEST_P(CliMistakeTest, IsExplained) {
  const Outcome outcome = run(GetParam().arguments);
  EXPECT_EQ(outcome.exit_code, kExitUsage);
  EXPECT_NE(outcome.err.find(GetParam().message), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("--help`"), std::string::npos) << outcome.err;
  EXPECT_EQ(outcome.out, "");
  EXPECT_EQ(trained_ + started_, 0);
}

INSTANTIATE_TEST_SUITE_P(
    Mistakes, CliMistakeTest,
    testing::Values(Mistake{{"trian", "a.toml"}, "sporkle: unknown command `trian`; did you mean `train`?"},
                    Mistake{{"xyzzy"}, "sporkle: unknown command `xyzzy`\n"},
                    Mistake{{"run", "strat"}, "sporkle run: unknown command `strat`; did you mean `start`?"},
                    Mistake{{"run"}, "sporkle run: a command is missing"},
                    Mistake{{"train", "a", "--stpes", "3"}, "unknown option `--stpes`; did you mean `--steps`?"},
                    Mistake{{"train", "a", "--stpes=3"}, "unknown option `--stpes=3`; did you mean `--steps`?"},
                    Mistake{{"--verion"}, "sporkle: unknown option `--verion`; did you mean `--version`?"},
                    Mistake{{"train", "a", "b"}, "sporkle train: unexpected argument `b`"},
                    Mistake{{"train"}, "config is required"}, Mistake{{"train", "a", "--steps", "many"}, "many"},
                    Mistake{{"train", "a", "--steps", "0"}, "0"}, Mistake{{"train", "a", "--steps"}, "--steps"},
                    Mistake{{"train", "a", "--device", "gpu"}, "gpu"}));

}  // namespace
}  // namespace sporkle::app
