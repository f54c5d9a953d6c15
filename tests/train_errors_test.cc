// What a user can get wrong with training on one machine, and what the machine can: each has its message, and no
// checkpoint is ever lost.
#include <sys/mount.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "tests/command.h"

namespace sporkle::testing {
namespace {

namespace fs = std::filesystem;

class TrainErrorsTest : public CommandTest {
 protected:
  void SetUp() override {
    CommandTest::SetUp();
    write("text.txt", sample_text(2000));
  }

  // A config of a tiny model; returns its name.
  std::string config(const std::string& data = "path = \"text.txt\"\n", const std::string& rest = "",
                     const std::string& directory = "model") {
    write("config.toml", "[data]\n" + data + "[model]\nlayers = 1\nheads = 2\nwidth = 32\ncontext = 16\n[output]\n" +
                             "directory = \"" + directory + "\"\n[train]\nbatch_size = 2\neval_batches = 1\n" +
                             (rest.empty() ? "steps = 3\n" : rest));
    return "config.toml";
  }
  void train() {
    const Output output = run({"train", config()});
    ASSERT_EQ(output.exit_code, 0) << output.err;
  }
  // Changes the byte at `offset`; counted from the end where it is negative.
  void damage(const std::string& name, long offset) {
    std::string content = read(name);
    ASSERT_FALSE(content.empty()) << name;
    content[offset < 0 ? content.size() - static_cast<size_t>(-offset) : static_cast<size_t>(offset)] ^= 0x20;
    write(name, content);
  }
};

TEST_F(TrainErrorsTest, Configs) {
  expect_failure({"train"}, {"which CONFIG.toml", "--help-config"});
  expect_failure({"train", "missing.toml"}, {"missing.toml", "No such file"});
  write("bad.toml", "[data\n");
  expect_failure({"train", "bad.toml"}, {"bad.toml:1"});
  expect_failure({"train", config("path = \"text.txt\"\n", "lerning_rate = 1e-3\n")},
                 {"config.toml:", "lerning_rate", "learning_rate"});
  expect_failure({"train", config("path = \"text.txt\"\n", "steps = -1\n")}, {"steps is -1"});
  expect_failure({"train", config("path = \"text.txt\"\ncorpus = \"kjv\"\n")}, {"both are set"});
  expect_failure({"train", config("corpus = \"kjw\"\n")}, {"kjw", "kjv"});
  write("huge.toml", "[data]\npath = \"text.txt\"\n[train]\ngradient_accumulation = 1000000\nbatch_size = 1000000\n");
  expect_failure({"train", "huge.toml"}, {"tokens in one step"});
  EXPECT_FALSE(fs::exists(folder_ / "model"));
}

TEST_F(TrainErrorsTest, CommandLines) {
  expect_failure({"trian"}, {"did you mean `train`"}, 2);
  expect_failure({"train", config(), "--resum"}, {"did you mean `--resume`"}, 2);
  expect_failure({"train", config(), "--threads", "-1"}, {"--threads"}, 2);
  expect_failure({"train", config(), "--device", "gpu"}, {"unknown device \"gpu\"", "cpu"});
  expect_failure({"generate"}, {"checkpoint"}, 2);
}

TEST_F(TrainErrorsTest, Texts) {
  expect_failure({"train", config("path = \"missing.txt\"\n")}, {"missing.txt", "No such file"});
  write("latin1.txt", "caf\xe9 au lait");
  expect_failure({"train", config("path = \"latin1.txt\"\n")}, {"latin1.txt is not UTF-8", "offset 3"});
  write("empty.txt", "");
  expect_failure({"train", config("path = \"empty.txt\"\n")}, {"empty.txt", "it is empty"});
  fs::create_directory(folder_ / "nothing");
  expect_failure({"train", config("path = \"nothing\"\n")}, {"nothing has no files in it"});
  write("short.txt", "too short");
  expect_failure({"train", config("path = \"short.txt\"\n")}, {"too little text", "validation_fraction"});
  write("broken.json", "{");
  expect_failure({"train", config("path = \"text.txt\"\ntokenizer = \"broken.json\"\n")}, {"broken.json"});
}

TEST_F(TrainErrorsTest, OutputDirectories) {
  train();
  expect_failure({"train", config()}, {"model holds a checkpoint already", "--resume"});
  expect_failure({"train", config("path = \"text.txt\"\n", "", "text.txt/model"), "--json"},
                 {"output directory", "Not a directory"});
  expect_failure({"train", config("path = \"text.txt\"\n", "", "elsewhere"), "--resume"},
                 {"cannot resume", "there is no checkpoint elsewhere"});
  expect_failure({"train", config("path = \"text.txt\"\n", "seed = 5\n"), "--resume"}, {"train.seed differs"});
  expect_failure({"train", config("path = \"text.txt\"\nvalidation_fraction = 0.2\n"), "--resume"}, {"[data] differs"});
  // None of that did harm.
  EXPECT_EQ(run({"checkpoint", "show", "model"}).exit_code, 0);
}

TEST_F(TrainErrorsTest, Checkpoints) {
  expect_failure({"generate", "missing"}, {"no checkpoint missing", "no such folder"});
  fs::create_directory(folder_ / "empty");
  expect_failure({"checkpoint", "show", "empty"}, {"no checkpoint in empty"});
  train();
  const std::string folder = "model/checkpoint-00000003/";

  fs::copy(folder_ / folder, folder_ / "flipped");
  damage("flipped/model.safetensors", -5);
  for (const Arguments& command :
       {Arguments{"generate", "flipped"}, {"eval", "flipped", "text.txt"}, {"checkpoint", "show", "flipped"}})
    expect_failure(command, {"flipped/model.safetensors", "SHA-256", "damaged"});

  fs::copy(folder_ / folder, folder_ / "cut");
  fs::resize_file(folder_ / "cut/model.safetensors", 1000);
  expect_failure({"generate", "cut"}, {"cut/model.safetensors"});

  fs::copy(folder_ / folder, folder_ / "foreign");
  write("foreign/config.json", "{\"model_type\": \"mamba\", \"hidden_size\": 32}");
  expect_failure({"generate", "foreign"}, {"foreign/config.json", "mamba"});

  // As it comes from elsewhere: without our file beside it, and without a tokenizer.
  fs::copy(folder_ / folder, folder_ / "bare");
  fs::remove(folder_ / "bare/sporkle.json");
  expect_failure({"generate", "bare"}, {"bare", "tokenizer.json"});
  EXPECT_EQ(run({"checkpoint", "show", "bare"}).exit_code, 0);

  damage(folder + "training_state.safetensors", -5);
  expect_failure({"train", config(), "--resume"}, {"training_state.safetensors"});
  fs::remove(folder_ / folder / "state.json");
  expect_failure({"train", config(), "--resume"}, {"no training state", "cannot be resumed"});
}

TEST_F(TrainErrorsTest, GenerateAndEval) {
  train();
  expect_failure({"generate", "model", "--temperature", "-1"}, {"temperature must be from 0 to 100"});
  expect_failure({"generate", "model", "--top-p", "0"}, {"top-p"});
  expect_failure({"generate", "model", "--top-k", "-2"}, {"top-k"});
  expect_failure({"generate", "model", "--prompt", "a", "--prompt-file", "text.txt"}, {"not both"});
  expect_failure({"generate", "model", "--prompt-file", "missing.txt"}, {"missing.txt"});
  expect_failure({"eval", "model"}, {"on which text"});
  expect_failure({"eval", "model", "missing.txt"}, {"missing.txt"});
  write("short.txt", "short");
  expect_failure({"eval", "model", "short.txt"}, {"too little text"});
  expect_failure({"tokenizer", "decode", "bytes", "97", "300"}, {"300"});
  expect_failure({"tokenizer", "decode", "bytes", "x"}, {"\"x\" is no token ID"});
  expect_failure({"tokenizer", "train", "text.txt", "-o", "text.txt"}, {"text.txt is there already"});
}

TEST_F(TrainErrorsTest, AFullDiskLeavesTheEarlierCheckpoint) {
  const fs::path disk = folder_ / "disk";
  fs::create_directory(disk);
  if (::mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=384k") != 0)
    GTEST_SKIP() << "a small file system can only be mounted by root: a full disk was not tested";
  // About 25 thousand parameters: a checkpoint takes 300 kB.
  const std::string name = config("path = \"text.txt\"\n", "steps = 30\ncheckpoint_every = 10\n", "disk/model");
  expect_failure({"train", name}, {"No space left on device"});
  const Output shown = run({"checkpoint", "show", "disk/model", "--json"});
  EXPECT_EQ(shown.exit_code, 0) << shown.err;
  EXPECT_EQ(field(shown.out, "step"), "10");
  EXPECT_EQ(run({"generate", "disk/model", "-n", "3"}).exit_code, 0);
  // Nothing of the failed one is left in the way.
  int entries = 0;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator(disk / "model")) ++entries;
  EXPECT_EQ(entries, 2) << "checkpoint-00000010 and latest";
  EXPECT_EQ(::umount(disk.c_str()), 0);
}

}  // namespace
}  // namespace sporkle::testing
