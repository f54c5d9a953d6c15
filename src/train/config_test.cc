#include "train/config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>

#include "base/file.h"
#include "train/temporary_folder.h"

namespace sporkle::train {
namespace {

constexpr const char* kData = "[data]\ncorpus = \"kjv\"\n";

std::string error_of(const std::string& toml) {
  const auto config = parse_config(toml, "run.toml");
  if (config.ok()) return "no error";
  EXPECT_EQ(config.status().code(), Code::invalid_argument);
  return config.status().message();
}

TEST(ConfigTest, OnlyDataIsNeeded) {
  const auto config = parse_config(kData, "run.toml");
  ASSERT_TRUE(config.ok()) << config.status().to_string();
  TrainConfig expected;
  expected.data.corpus = "kjv";
  EXPECT_EQ(*config, expected);
  EXPECT_EQ(config->total_steps(), 1000);
  EXPECT_EQ(config->tokens_per_step(), 32 * 128);
}

TEST(ConfigTest, ReadsEverySectionAndWholeNumbersForNumbers) {
  const auto config = parse_config(
      "[data]\npath = \"text\"\ntokenizer = \"bpe\"\nvocab_size = 512\n"
      "[model]\nlayers = 2\nheads = 2\nwidth = 64\ndropout = 0.1\n"
      "[train]\nsteps = 7\nweight_decay = 0\nlearning_rate = 2e-3\n"
      "[output]\ndirectory = \"out\"\n"
      "[run]\ninner_steps = \"2x10,20\"\nworkers = 4\nlisten = \"127.0.0.1:7070\"\n",
      "run.toml");
  ASSERT_TRUE(config.ok()) << config.status().to_string();
  EXPECT_EQ(config->data.path, "text");
  EXPECT_EQ(config->data.vocab_size, 512);
  EXPECT_EQ(config->model.width, 64);
  EXPECT_EQ(config->model.dropout, 0.1);
  EXPECT_EQ(config->train.steps, 7);
  EXPECT_EQ(config->train.weight_decay, 0.0);
  EXPECT_EQ(config->train.learning_rate, 2e-3);
  EXPECT_EQ(config->output.directory, "out");
  EXPECT_EQ(config->run.inner_steps, "2x10,20");
  EXPECT_EQ(config->run.workers, 4);
}

TEST(ConfigTest, TokensGiveSteps) {
  auto config = parse_config(std::string(kData) + "[train]\ntokens = 8193\n", "run.toml");
  ASSERT_TRUE(config.ok()) << config.status().to_string();
  EXPECT_EQ(config->total_steps(), 3);  // 4096 tokens in a step
  config->train.tokens = 8192;
  EXPECT_EQ(config->total_steps(), 2);
}

TEST(ConfigTest, UnknownNamesGetTheNearestOne) {
  EXPECT_EQ(error_of(std::string(kData) + "[train]\nlerning_rate = 0.1\n"),
            "run.toml:4: unknown key \"lerning_rate\" in [train]; did you mean \"learning_rate\"?");
  EXPECT_EQ(error_of(std::string(kData) + "[train]\nlayers = 2\n"),
            "run.toml:4: unknown key \"layers\" in [train]; did you mean [model] layers?");
  EXPECT_EQ(error_of(std::string(kData) + "[trian]\nsteps = 2\n"),
            "run.toml:3: unknown section [trian]; did you mean [train]?");
  EXPECT_EQ(error_of("steps = 3\n[data]\ncorpus = \"kjv\"\n"),
            "run.toml:1: \"steps\" stands outside any section; did you mean [train] steps?");
}

TEST(ConfigTest, WrongTypesSayWhatWasFoundAndExpected) {
  EXPECT_EQ(error_of(std::string(kData) + "[train]\n\nsteps = \"many\"\n"),
            "run.toml:5: [train] steps is the string \"many\"; an integer (1 or more) was expected");
  EXPECT_EQ(error_of(std::string(kData) + "[train]\nbeta1 = true\n"),
            "run.toml:4: [train] beta1 is true; a number (0 or more, less than 1) was expected");
  EXPECT_EQ(error_of("[data]\npath = [1, 2]\n"), "run.toml:2: [data] path is a list; a string was expected");
  EXPECT_EQ(error_of("[data]\npath = 3\n"), "run.toml:2: [data] path is the integer 3; a string was expected");
  EXPECT_NE(error_of(std::string(kData) + "[train]\nsteps = 1.5\n").find("an integer"), std::string::npos);
  EXPECT_NE(error_of("[[data]]\ncorpus = \"kjv\"\n").find("stands outside any section"), std::string::npos);
}

TEST(ConfigTest, RangesAreChecked) {
  EXPECT_EQ(error_of(std::string(kData) + "[model]\nlayers = 0\n"),
            "run.toml:4: [model] layers is 0; an integer (1 to 1024) was expected");
  EXPECT_NE(error_of(std::string(kData) + "[model]\ndropout = 1.0\n").find("dropout is 1.0"), std::string::npos);
  EXPECT_NE(error_of(std::string(kData) + "[train]\nlearning_rate = 0.0\n").find("learning_rate is 0.0"),
            std::string::npos);
  EXPECT_NE(error_of(std::string(kData) + "[train]\nlearning_rate = nan\n").find("learning_rate is nan"),
            std::string::npos);
  EXPECT_NE(error_of(std::string(kData) + "[train]\nnumerics = \"loose\"\n").find("(\"strict\""), std::string::npos);
  EXPECT_NE(error_of("[data]\ncorpus = \"kjv\"\nvalidation_fraction = 1.0\n").find("less than 1"), std::string::npos);
}

TEST(ConfigTest, KeysThatDoNotFitTogether) {
  EXPECT_NE(error_of("").find("neither is set"), std::string::npos);
  EXPECT_NE(error_of("[data]\npath = \"a\"\ncorpus = \"kjv\"\n").find("both are set"), std::string::npos);
  EXPECT_NE(error_of("[data]\ncorpus = \"kvj\"\n").find("one of these was expected: \"kjv\""), std::string::npos);
  EXPECT_NE(error_of("[data]\ncorpus = \"kjv\"\ntokenizer = \"\"\n").find("tokenizer is empty"), std::string::npos);
  EXPECT_NE(error_of(std::string(kData) + "[model]\nheads = 3\n").find("must divide"), std::string::npos);
  EXPECT_NE(error_of(std::string(kData) + "[train]\nprecision = \"bf16\"\n").find("need numerics = \"fast\""),
            std::string::npos);
  EXPECT_EQ(error_of(std::string(kData) + "[train]\nnumerics = \"fast\"\nprecision = \"bf16\"\n"), "no error");
  EXPECT_EQ(error_of(std::string(kData) + "[train]\nsteps = 5\ntokens = 9\n"),
            "run.toml:5: [train] has both steps and tokens; set one of them");
  EXPECT_NE(error_of(std::string(kData) + "[train]\nmin_learning_rate = 1.0\n").find("more than learning_rate"),
            std::string::npos);
  EXPECT_NE(error_of(std::string(kData) + "[train]\nbatch_size = 1048576\ngradient_accumulation = 1000\n")
                .find("tokens in one step"),
            std::string::npos);
  EXPECT_NE(error_of(std::string(kData) + "[output]\ndirectory = \"\"\n").find("directory is empty"),
            std::string::npos);
  EXPECT_NE(error_of(std::string(kData) + "[run]\ninner_steps = \"\"\n").find("inner_steps is empty"),
            std::string::npos);
  EXPECT_NE(error_of(std::string(kData) + "[run]\nquorum = 2\n").find("more than workers"), std::string::npos);
  for (const char* listen : {"nowhere", ":80", "0.0.0.0:", "0.0.0.0:99999", "0.0.0.0:80x", "0.0.0.0:-1"})
    EXPECT_NE(error_of(std::string(kData) + "[run]\nlisten = \"" + listen + "\"\n").find("a port from 0 to 65535"),
              std::string::npos)
        << listen;
}

TEST(ConfigTest, BadTomlNamesTheLine) {
  EXPECT_EQ(error_of("[data]\ncorpus = \n").substr(0, 21), "run.toml:2: not TOML:");
  EXPECT_NE(error_of("[data]\ncorpus = \"kjv\"\ncorpus = \"kjv\"\n").find("not TOML"), std::string::npos);
  EXPECT_NE(error_of("\xFF").find("not TOML"), std::string::npos);
  EXPECT_NE(error_of(std::string(100000, '[')).find("not TOML"), std::string::npos);
}

TEST(ConfigTest, AMissingFileIsNotFound) {
  const testing::TemporaryFolder folder;
  EXPECT_EQ(load_config(folder.path() / "none.toml").status().code(), Code::not_found);
  EXPECT_TRUE(load_config(folder.file("run.toml", kData)).ok());
}

TEST(ConfigTest, WritingAndReadingGivesTheSame) {
  TrainConfig config;
  config.data.path = "a \"quoted\"\\path\twith\x01 odd \u20ac characters";
  config.train.tokens = 123456789012;
  config.train.learning_rate = 0.1 + 0.2;
  config.train.min_learning_rate = 1e-300;
  config.train.epsilon = std::numeric_limits<double>::denorm_min();
  config.train.seed = std::numeric_limits<int64_t>::max();
  config.run.inner_steps = "1x4,2x4,5x10,10";
  const std::string toml = config_to_toml(config);
  const auto read = parse_config(toml, "written.toml");
  ASSERT_TRUE(read.ok()) << read.status().to_string() << "\n" << toml;
  EXPECT_EQ(*read, config);

  TrainConfig defaults;
  defaults.data.corpus = "kjv";
  EXPECT_EQ(*parse_config(config_to_toml(defaults), "written.toml"), defaults);
}

TEST(ConfigTest, ConfigsMadeInCodeAreChecked) {
  TrainConfig config;
  config.data.corpus = "kjv";
  EXPECT_TRUE(validate_config(config).ok());
  config.model.layers = -1;
  EXPECT_NE(validate_config(config).message().find("[model] layers is -1"), std::string::npos);
}

TEST(ConfigTest, TheHelpNamesEveryKey) {
  const std::string help = config_help();
  for (const ConfigKey& key : config_keys()) EXPECT_NE(help.find("\n  " + key.name), std::string::npos) << key.name;
}

// SPORKLE_UPDATE_DOCS=1 writes the tables into the page.
TEST(ConfigTest, TheDocumentationIsUpToDate) {
  const std::filesystem::path path = std::filesystem::path(SPORKLE_SOURCE_DIR) / "docs" / "config.md";
  auto page = read_file(path);
  ASSERT_TRUE(page.ok()) << page.status().to_string();
  const std::string begin = "<!-- The tables are written by config_test. -->\n";
  const std::string end = "<!-- End of the tables. -->\n";
  const size_t from = page->find(begin);
  const size_t to = page->find(end);
  ASSERT_TRUE(from != std::string::npos && to != std::string::npos && from < to);
  const std::string expected = page->substr(0, from) + begin + config_markdown() + page->substr(to);
  if (std::getenv("SPORKLE_UPDATE_DOCS")) {
    ASSERT_TRUE(write_file_atomically(path, expected).ok());
  }
  EXPECT_EQ(*read_file(path), expected) << "run train_test with SPORKLE_UPDATE_DOCS=1 and commit docs/config.md";
}

}  // namespace
}  // namespace sporkle::train
