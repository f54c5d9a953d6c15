// The same seed gives the same model to the last bit, however the machine computes it.
#include <string>

#include "tests/command.h"

namespace sporkle::testing {
namespace {

constexpr const char* kModel =
    "[model]\nlayers = 2\nheads = 2\nwidth = 32\ncontext = 32\ndropout = 0.1\n"
    "[train]\nsteps = 200\nbatch_size = 8\nwarmup_steps = 20\nlearning_rate = 3e-3\nseed = 7\neval_every = 0\n"
    "checkpoint_every = 0\n";

class DeterminismTest : public CommandTest {
 protected:
  void SetUp() override {
    CommandTest::SetUp();
    write("text.txt", sample_text(8000));
  }

  // SHA-256 of all parameters after training as `options` and `environment` say.
  std::string train(const Arguments& options, Environment environment = {}, const std::string& model = kModel) {
    const std::string name = "run-" + std::to_string(runs_++);
    write(name + ".toml", "[data]\npath = \"text.txt\"\n" + model + "[output]\ndirectory = \"" + name + "\"\n");
    return train_config(name, options, environment);
  }
  std::string train_config(const std::string& name, const Arguments& options, const Environment& environment = {}) {
    Arguments arguments{"train", name + ".toml", "--json"};
    arguments.insert(arguments.end(), options.begin(), options.end());
    const Output output = run(arguments, environment);
    EXPECT_EQ(output.exit_code, 0) << output.err;
    const std::string digest = field(last_line(output.out), "parameters_sha256");
    EXPECT_EQ(digest.size(), 64u) << output.out;
    // What was saved is what was trained.
    EXPECT_EQ(field(run({"checkpoint", "show", name, "--json"}).out, "parameters_sha256"), digest);
    return digest;
  }

 private:
  int runs_ = 0;
};

Environment target(const std::string& name) { return {{"SPORKLE_CPU_TARGET", name}}; }

// Of the code generator's own choice among what this machine can run.
bool runs_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
bool runs_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

TEST_F(DeterminismTest, ThreadsAndKernelCacheDoNotMatter) {
  const Environment own_cache{{"SPORKLE_CACHE", (folder_ / "cache").string()}};
  const std::string cold = train({"--threads", "2"}, own_cache);
  ASSERT_TRUE(std::filesystem::exists(folder_ / "cache" / "kernels"));
  EXPECT_EQ(train({"--threads", "2"}, own_cache), cold) << "with a warm kernel cache";
  EXPECT_EQ(train({"--threads", "1"}, own_cache), cold) << "with one thread";
  EXPECT_NE(train({"--stop-after", "199"}, own_cache), cold)
      << "a step less makes no difference, so this test is blind";
}

TEST_F(DeterminismTest, InstructionSetsDoNotMatter) {
  if (!runs_avx2()) GTEST_SKIP() << "this processor has no AVX2";
  const std::string avx2 = train({"--threads", "2"}, target("x86-64-v3"));
  if (!runs_avx512()) GTEST_SKIP() << "this processor has no AVX-512: AVX2 was compared with nothing";
  EXPECT_EQ(train({"--threads", "2"}, target("x86-64-v4")), avx2);
}

// Without FMA instructions, multiply-add is computed in software: slow, so fewer steps.
TEST_F(DeterminismTest, BaselineInstructionsGiveTheSameBits) {
  const Arguments few{"--threads", "2", "--stop-after", "10"};
  EXPECT_EQ(train(few, target("x86-64")), train(few));
}

TEST_F(DeterminismTest, StoppingAndResumingDoesNotMatter) {
  const std::string whole = train({});
  const std::string half = train({"--stop-after", "100"});
  EXPECT_NE(half, whole);
  EXPECT_EQ(train_config("run-1", {"--resume", "--threads", "1"}), whole);
}

TEST_F(DeterminismTest, WithBpeAndAccumulationAsWell) {
  const std::string model =
      "tokenizer = \"bpe\"\nvocab_size = 300\n[model]\nlayers = 1\nheads = 2\nwidth = 16\ncontext = 16\n"
      "[train]\nsteps = 60\nbatch_size = 4\ngradient_accumulation = 3\neval_every = 7\ncheckpoint_every = 11\n";
  const std::string whole = train({"--threads", "2"}, {}, model);
  train({"--threads", "1", "--stop-after", "25"}, {}, model);
  EXPECT_EQ(train_config("run-1", {"--resume"}), whole);
}

TEST_F(DeterminismTest, AnotherSeedGivesAnotherModel) {
  std::string other = kModel;
  other.replace(other.find("seed = 7"), 8, "seed = 8");
  const Arguments few{"--stop-after", "3"};
  EXPECT_NE(train(few), train(few, {}, other));
}

// Two processes with a kernel and pipeline cache that both of them fill.
TEST_F(DeterminismTest, TwoProcessesOnOneGpuDoNotMatter) {
  if (run({"devices", "--json"}).out.find("\"vulkan:0\"") == std::string::npos) GTEST_SKIP() << "no device vulkan:0";
  const std::string steps = std::string(kModel).replace(std::string(kModel).find("steps = 200"), 11, "steps = 20");
  const std::string alone = train({}, {}, steps);
  const Environment gpu{{"SPORKLE_CACHE", (folder_ / "cache").string()}, {"SPORKLE_DEVICE", "vulkan:0"}};
  std::vector<Running> processes;
  for (const std::string name : {"one", "two"}) {
    write(name + ".toml", "[data]\npath = \"text.txt\"\n" + steps + "[output]\ndirectory = \"" + name + "\"\n");
    processes.push_back(start({"train", name + ".toml", "--json"}, gpu));
  }
  for (Running& process : processes) {
    const Output output = process.wait();
    EXPECT_EQ(output.exit_code, 0) << output.err;
    EXPECT_EQ(field(last_line(output.out), "parameters_sha256"), alone);
  }
}

}  // namespace
}  // namespace sporkle::testing
