// From a text to a model that writes: train, generate, eval, checkpoint show and tokenizer, through the command.
#include <signal.h>

#include <cmath>
#include <cstdlib>
#include <string>

#include "base/file.h"
#include "tests/command.h"

namespace sporkle::testing {
namespace {

double number(const std::string& json, const std::string& name) {
  const std::string text = field(json, name);
  return text.empty() || text == "null" ? std::nan("") : std::strtod(text.c_str(), nullptr);
}

class TrainFlowTest : public CommandTest {
 protected:
  void SetUp() override {
    CommandTest::SetUp();
    text_ = sample_text(6000);
    write("text.txt", text_);
  }

  // A tiny model; `extra` may add keys to [train], which comes last.
  void write_config(const std::string& tokenizer, const std::string& extra = "") {
    write("config.toml", "[data]\npath = \"text.txt\"\nvalidation_fraction = 0.1\nvocab_size = 320\ntokenizer = \"" +
                             tokenizer + "\"\n[model]\nlayers = 2\nheads = 2\nwidth = 32\ncontext = 32\n" +
                             "[output]\ndirectory = \"model\"\n[train]\nbatch_size = 8\nlearning_rate = 5e-3\n" +
                             "warmup_steps = 5\neval_batches = 2\n" + extra);
  }
  Output ok(const Arguments& arguments) {
    Output output = run(arguments);
    EXPECT_EQ(output.exit_code, 0) << arguments[0] << "\n" << output.err;
    return output;
  }

  std::string text_;
};

TEST_F(TrainFlowTest, BytesFromTextToText) {
  write_config("bytes", "steps = 80\neval_every = 30\ncheckpoint_every = 50\n");
  const Output trained = ok({"train", "config.toml", "--json"});
  std::string events;
  for (const std::string& line : lines(trained.out)) {
    const std::string event = field(line, "event");
    if (event != "step") events += event + " ";
  }
  EXPECT_EQ(events, "start first_step evaluation checkpoint evaluation checkpoint evaluation summary ");
  const std::string summary = last_line(trained.out);
  EXPECT_EQ(number(summary, "steps"), 80);
  EXPECT_EQ(number(summary, "tokens"), 80 * 8 * 32);
  EXPECT_GT(number(summary, "tokens_per_second"), 0);
  EXPECT_GT(number(summary, "seconds"), 0);
  // Uniform bytes would be 5.5.
  EXPECT_LT(number(summary, "train_loss"), 3.2);
  const double loss = number(summary, "validation_loss");
  EXPECT_LT(loss, 3.2);
  EXPECT_NEAR(number(summary, "validation_bits_per_byte"), loss / std::log(2.0), 1e-9);
  EXPECT_EQ(field(summary, "checkpoint"), "model/checkpoint-00000080");

  // The same part of the text, once as an option and once as a file of its own.
  const std::string by_option = ok({"eval", "model", "text.txt", "--last", "0.1", "--json"}).out;
  EXPECT_NEAR(number(by_option, "loss"), loss, 1e-6);
  const size_t held_back = static_cast<size_t>(std::llround(0.1 * static_cast<double>(text_.size())));
  write("tail.txt", text_.substr(text_.size() - held_back));
  const std::string by_file = ok({"eval", "model/checkpoint-00000080", "tail.txt", "--json"}).out;
  EXPECT_EQ(number(by_file, "loss"), number(by_option, "loss"));
  EXPECT_NEAR(number(by_file, "bits_per_byte"), number(summary, "validation_bits_per_byte"), 1e-6);
  // A text that it has not seen the like of.
  write("other.txt", std::string(500, 'Q'));
  EXPECT_GT(number(ok({"eval", "model", "other.txt", "--json"}).out, "loss"), loss + 1);

  const std::string shown = ok({"checkpoint", "show", "model", "--json"}).out;
  EXPECT_EQ(field(shown, "parameters_sha256"), field(summary, "parameters_sha256"));
  EXPECT_EQ(number(shown, "step"), 80);
  const std::string table = ok({"checkpoint", "show", "model"}).out;
  EXPECT_NE(table.find("h.1.mlp.c_fc.weight"), std::string::npos) << table;
  EXPECT_NE(table.find(field(summary, "parameters_sha256")), std::string::npos) << table;
}

// The event of this name, of which there is one.
std::string event_of(const Output& output, const std::string& name) {
  for (const std::string& line : lines(output.out))
    if (field(line, "event") == name) return line;
  ADD_FAILURE() << "no event " << name << " in " << output.out;
  return "";
}

TEST_F(TrainFlowTest, AWarmStartCompilesNothing) {
  write_config("bytes", "steps = 3\n");
  const Environment own_cache{{"SPORKLE_CACHE", (folder_ / "cache").string()}};
  const auto train = [&] {
    std::filesystem::remove_all(folder_ / "model");
    Output output = run({"train", "config.toml", "--json"}, own_cache);
    EXPECT_EQ(output.exit_code, 0) << output.err;
    return output;
  };
  const Output cold = train(), warm = train();
  EXPECT_GT(number(event_of(cold, "first_step"), "kernels_compiled"), 5);
  EXPECT_GT(number(event_of(cold, "first_step"), "compile_seconds"), 0);
  const std::string started = event_of(warm, "first_step");
  EXPECT_EQ(number(started, "kernels_compiled"), 0);
  EXPECT_GT(number(started, "kernels_loaded"), 5);
  EXPECT_GT(number(started, "seconds_to_ready"), 0);
  EXPECT_GT(number(started, "seconds_to_first_step"), number(started, "seconds_to_ready"));
  EXPECT_GT(number(started, "seconds_since_start"), number(started, "seconds_to_first_step"));
  const std::string sha256 = field(last_line(cold.out), "parameters_sha256");
  EXPECT_EQ(field(last_line(warm.out), "parameters_sha256"), sha256);

  // Entries that are damaged are compiled again.
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder_ / "cache" / "kernels"))
    if (entry.is_regular_file()) std::filesystem::resize_file(entry.path(), entry.file_size() / 2);
  const Output damaged = train();
  EXPECT_GT(number(event_of(damaged, "first_step"), "kernels_compiled"), 5);
  EXPECT_EQ(field(last_line(damaged.out), "parameters_sha256"), sha256);
}

TEST_F(TrainFlowTest, AKernelCacheThatCannotBeUsedIsSaidOnce) {
  write_config("bytes", "steps = 3\n");
  std::filesystem::create_directory(folder_ / "cache");
  write("cache/kernels", "a file where a folder should be");
  const Output output = run({"train", "config.toml", "--json"}, {{"SPORKLE_CACHE", (folder_ / "cache").string()}});
  EXPECT_EQ(output.exit_code, 0) << output.err;
  const size_t said = output.err.find("compiled kernels are not kept");
  EXPECT_NE(said, std::string::npos) << output.err;
  EXPECT_EQ(output.err.find("compiled kernels are not kept", said + 1), std::string::npos) << output.err;
}

TEST_F(TrainFlowTest, AMemoryCapCostsTimeAndNoBits) {
  write_config("bytes", "steps = 3\nbatch_size = 128\n");
  std::string config = *read_file(folder_ / "config.toml");
  config.erase(config.find("batch_size = 8\n"), 15);
  write("config.toml", config);
  const auto train = [&](const Arguments& more) {
    std::filesystem::remove_all(folder_ / "model");
    Arguments arguments{"train", "config.toml", "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return ok(arguments);
  };
  const Output free = train({});
  const std::string memory = event_of(free, "first_step");
  const double peak = number(memory, "memory_peak_bytes"), parameters = number(memory, "parameter_bytes");
  EXPECT_EQ(number(memory, "optimizer_bytes"), 2 * parameters);
  EXPECT_EQ(number(memory, "gradient_bytes"), parameters);
  EXPECT_GT(number(memory, "activation_bytes"), 0);
  EXPECT_EQ(field(memory, "recomputes"), "false");
  EXPECT_LE(peak, 4 * parameters + 1.5 * number(memory, "activation_bytes")) << memory;

  const std::string cap = std::to_string(static_cast<int>(0.8 * peak / 1e6));
  const Output capped = train({"--memory-cap", cap});
  EXPECT_EQ(field(event_of(capped, "first_step"), "recomputes"), "true");
  EXPECT_LE(number(event_of(capped, "first_step"), "memory_peak_bytes"), 0.8 * peak);
  EXPECT_EQ(field(last_line(capped.out), "parameters_sha256"), field(last_line(free.out), "parameters_sha256"));

  std::filesystem::remove_all(folder_ / "model");
  expect_failure({"train", "config.toml", "--memory-cap", "1"}, {"memory cap is 1.00 MB", "needs", "raise the cap"});
}

TEST_F(TrainFlowTest, BpeFromTextToText) {
  write_config("bpe", "steps = 60\n");
  const std::string summary = last_line(ok({"train", "config.toml", "--json"}).out);
  const double loss = number(summary, "validation_loss");
  // A token stands for several bytes.
  EXPECT_LT(number(summary, "validation_bits_per_byte"), 0.7 * loss / std::log(2.0));
  EXPECT_NEAR(number(ok({"eval", "model", "text.txt", "--last", "0.1", "--json"}).out, "loss"), loss, 1e-6);

  const std::string ids = ok({"tokenizer", "encode", "model", "the green mountain"}).out;
  Arguments decode{"tokenizer", "decode", "model/latest/tokenizer.json"};
  for (size_t begin = 0, end; begin < ids.size(); begin = end + 1) {
    end = ids.find_first_of(" \n", begin);
    decode.push_back(ids.substr(begin, end - begin));
  }
  EXPECT_LT(decode.size(), 3 + 10u) << "about a token a word: " << ids;
  EXPECT_EQ(ok(decode).out, "the green mountain");

  const std::string written = last_line(ok({"generate", "model", "--prompt", "the river", "-n", "30", "--json"}).out);
  EXPECT_EQ(number(written, "tokens"), 30);
  EXPECT_GT(field(written, "text").size(), 50u);
}

TEST_F(TrainFlowTest, GenerationFollowsItsOptions) {
  write_config("bytes", "steps = 30\n");
  ok({"train", "config.toml"});
  // Longer than the model's context, and with characters of several bytes.
  const std::string prompt = "the river and the mountain: gr\u00fc\u00dfe \u4e2d\u6587";
  const auto text = [&](Arguments options) {
    Arguments arguments{"generate", "model", "--prompt", prompt, "-n", "100"};
    arguments.insert(arguments.end(), options.begin(), options.end());
    return ok(arguments).out;
  };
  const std::string first = text({"--seed", "3"});
  EXPECT_TRUE(first.starts_with(prompt)) << first;
  EXPECT_GT(first.size(), prompt.size() + 90);
  EXPECT_EQ(text({"--seed", "3", "--threads", "1"}), first);
  EXPECT_NE(text({"--seed", "4"}), first);
  const std::string likeliest = text({"--temperature", "0"});
  EXPECT_EQ(text({"--temperature", "0", "--seed", "9"}), likeliest);
  EXPECT_EQ(text({"--top-k", "1", "--temperature", "2"}), likeliest);
  EXPECT_EQ(text({"--top-p", "1e-9"}), likeliest);

  write("prompt.txt", prompt);
  EXPECT_EQ(ok({"generate", "model", "--prompt-file", "prompt.txt", "-n", "100", "--seed", "3"}).out, first);
  const Output events = ok({"generate", "model", "--prompt", prompt, "-n", "100", "--seed", "3", "--json"});
  std::string streamed;
  for (const std::string& line : lines(events.out))
    if (field(line, "event") == "text") streamed += field(line, "text");
  const std::string summary = last_line(events.out);
  EXPECT_EQ(field(summary, "event"), "summary");
  EXPECT_EQ(streamed, field(summary, "text"));
  EXPECT_EQ(prompt + streamed + "\n", first);
  EXPECT_FALSE(ok({"generate", "model", "-n", "5"}).out.empty());
}

TEST_F(TrainFlowTest, PlainOutputIsForPeopleAndPipes) {
  write_config("bytes", "steps = 20\neval_every = 10\n");
  const Output output = ok({"train", "config.toml"});
  EXPECT_EQ(output.err, "");
  EXPECT_EQ(output.out.find('\x1b'), std::string::npos) << output.out;
  for (const char* part : {"Training a GPT", "step 10 of 20, train loss", "saved model/checkpoint-00000020",
                           "validation loss", "sporkle generate model"})
    EXPECT_NE(output.out.find(part), std::string::npos) << part << "\n" << output.out;
}

TEST_F(TrainFlowTest, CtrlCSavesAndSaysHowToGoOn) {
  write_config("bytes", "steps = 1000000\neval_every = 0\ncheckpoint_every = 0\n");
  Running training = start({"train", "config.toml", "--json"});
  ASSERT_TRUE(training.wait_for_output("\"event\":\"step\""));
  training.send_signal(SIGINT);
  const Output stopped = training.wait();
  EXPECT_EQ(stopped.exit_code, 0) << stopped.err;
  const std::string summary = last_line(stopped.out);
  EXPECT_EQ(field(summary, "complete"), "false");
  EXPECT_EQ(field(summary, "validation_loss"), "null");
  const double step = number(summary, "steps");
  EXPECT_GE(step, 1);
  EXPECT_EQ(number(ok({"checkpoint", "show", "model", "--json"}).out, "step"), step);

  const std::string next = std::to_string(static_cast<int>(step) + 2);
  const Output resumed = ok({"train", "config.toml", "--resume", "--stop-after", next});
  EXPECT_NE(resumed.out.find("Stopped after step " + next), std::string::npos) << resumed.out;
  EXPECT_NE(resumed.out.find("sporkle train config.toml --resume"), std::string::npos) << resumed.out;
}

TEST_F(TrainFlowTest, ALlamaTrainsResumesAndWrites) {
  const auto configure = [&](const std::string& directory) {
    write("config.toml",
          "[data]\npath = \"text.txt\"\nvalidation_fraction = 0.1\n[model]\narchitecture = \"llama\"\nlayers = 2\n"
          "heads = 4\nkv_heads = 2\nwidth = 32\ncontext = 32\ndropout = 0.1\nhead = \"separate\"\n[output]\n"
          "directory = \"" +
              directory +
              "\"\n[train]\nbatch_size = 8\nlearning_rate = 5e-3\nwarmup_steps = 5\neval_batches = 2\nsteps = 40\n");
  };
  configure("whole");
  const std::string whole = last_line(ok({"train", "config.toml", "--json"}).out);
  EXPECT_LT(number(whole, "validation_loss"), 3.5);
  configure("parts");
  ok({"train", "config.toml", "--stop-after", "15", "--threads", "1"});
  const std::string parts = last_line(ok({"train", "config.toml", "--resume", "--json"}).out);
  EXPECT_EQ(field(parts, "parameters_sha256"), field(whole, "parameters_sha256"));

  EXPECT_NE(ok({"checkpoint", "show", "parts"}).out.find("Llama: 2 layers, 4 heads over 2"), std::string::npos);
  EXPECT_NEAR(number(ok({"eval", "parts", "text.txt", "--last", "0.1", "--json"}).out, "loss"),
              number(whole, "validation_loss"), 1e-6);
  const std::string written = last_line(ok({"generate", "parts", "--prompt", "the river", "-n", "60", "--json"}).out);
  EXPECT_EQ(number(written, "tokens"), 60);

  write("config.toml", "[data]\npath = \"text.txt\"\n[model]\nkv_heads = 2\n");
  const Output wrong = run({"train", "config.toml"});
  EXPECT_EQ(wrong.exit_code, 1);
  EXPECT_NE(wrong.err.find("architecture = \"llama\""), std::string::npos) << wrong.err;
}

TEST_F(TrainFlowTest, ATokenizerOfItsOwnServesTraining) {
  ok({"tokenizer", "train", "text.txt", "--vocab-size", "300", "-o", "words.json"});
  write_config("words.json", "steps = 5\n");
  ok({"train", "config.toml"});
  const std::string json = ok({"tokenizer", "encode", "model", "over the fields", "--json"}).out;
  EXPECT_EQ(json, ok({"tokenizer", "encode", "words.json", "over the fields", "--json"}).out);
  EXPECT_EQ(ok({"tokenizer", "encode", "bytes", "abc"}).out, "97 98 99\n");
}

TEST_F(TrainFlowTest, TheExampleConfigsAreValid) {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(std::string(SPORKLE_SOURCE_DIR) + "/examples/configs")) {
    if (entry.path().extension() != ".toml") continue;
    ++count;
    // The corpus may be missing here, the device is: whatever comes after reading the config ends it at once.
    const Output output = run({"train", entry.path().string(), "--device", "none-such"});
    EXPECT_EQ(output.exit_code, 1);
    EXPECT_TRUE(output.err.find("none-such") != std::string::npos || output.err.find("apt-get") != std::string::npos)
        << output.err;
  }
  EXPECT_GT(count, 0);
}

TEST_F(TrainFlowTest, DevicesAndHelpExplainThemselves) {
  const Output devices = ok({"devices", "--json"});
  EXPECT_GE(lines(devices.out).size(), 4u);  // a "vulkan" entry says why where there is no such device
  EXPECT_EQ(field(devices.out, "id"), "cpu");
  EXPECT_EQ(field(devices.out, "available"), "true");
  // Schedules that nobody has run on the hardware are marked so.
  const Output presets = ok({"devices", "--presets"});
  for (const std::string& line : lines(presets.out)) {
    const bool tested = line.starts_with("NVIDIA") || line.starts_with("processors");
    EXPECT_EQ(line.find("untested on hardware") == std::string::npos, tested) << line;
  }
  EXPECT_EQ(lines(presets.out).size(), 5u) << presets.out;
  const Output none = run({"devices"}, {{"SPORKLE_CPU_TARGET", "x86-64-v9"}});
  EXPECT_EQ(none.exit_code, 0);
  EXPECT_NE(none.out.find("not available"), std::string::npos) << none.out;
  EXPECT_NE(none.out.find("x86-64-v9"), std::string::npos) << none.out;
  EXPECT_NE(ok({"train", "--help-config"}).out.find("learning_rate"), std::string::npos);
}

}  // namespace
}  // namespace sporkle::testing
