// SPORKLE_DEBUG and SPORKLE_TRACE, as a user sets them: what each level prints, and what a trace holds.
#include <signal.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "tests/command.h"

namespace sporkle::testing {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class DebugTest : public CommandTest {
 protected:
  void SetUp() override {
    CommandTest::SetUp();
    write("text.txt", sample_text(2000));
    write("config.toml",
          "[data]\npath = \"text.txt\"\n[model]\nlayers = 1\nheads = 2\nwidth = 32\ncontext = 16\n[output]\n"
          "directory = \"model\"\n[train]\nbatch_size = 2\neval_batches = 1\nsteps = 2\n");
  }

  std::string at_level(int level) {
    fs::remove_all(folder_ / "model");
    const Output output = run({"train", "config.toml"}, {{"SPORKLE_DEBUG", std::to_string(level)}});
    EXPECT_EQ(output.exit_code, 0) << output.err;
    return output.err;
  }

  // The events of a finished trace.
  json trace(const fs::path& path) {
    const json events = json::parse(read(path), nullptr, /*allow_exceptions=*/false);
    EXPECT_TRUE(events.is_array()) << path;
    return events.is_array() ? events : json::array();
  }

  std::vector<fs::path> traces() {
    std::vector<fs::path> found;
    for (const auto& entry : fs::directory_iterator(folder_))
      if (entry.path().filename().string().starts_with("trace")) found.push_back(entry.path().filename());
    return found;
  }
};

TEST_F(DebugTest, EveryLevelAddsToTheOneBelow) {
  // What each level is the first to show.
  const std::vector<std::vector<std::string>> added = {
      {"info [launch] layer_norm.f32 ", ", launch 2, from src/nn/gpt.cc:"},
      {" ms, ", "FLOP/s", "[plan] ", " steps"},
      {"[schedule] layer_norm.f32 ", ": r:thread c:vec"},
      {"as traced:\nkernel \"layer_norm.f32\" strict", "layer_norm.f32, after expand_math:\n",
       "after apply_schedule:\n"},
      {"layer_norm.f32 as LLVM IR:", "define "},
      {"[assembly] layer_norm.f32 for cpu:", "\tretq"},
  };
  for (int level = 0; level <= 6; ++level) {
    const std::string shown = at_level(level);
    for (int i = 0; i < 6; ++i)
      for (const std::string& part : added[static_cast<size_t>(i)])
        EXPECT_EQ(shown.find(part) != std::string::npos, i < level) << "level " << level << ": " << part;
  }
}

TEST_F(DebugTest, TheLadderAndATraceChangeNoBits) {
  ASSERT_EQ(run({"train", "config.toml"}).exit_code, 0);
  const auto weights = [&] { return read("model/latest/model.safetensors"); };
  const std::string plain = weights();
  ASSERT_FALSE(plain.empty());
  fs::remove_all(folder_ / "model");
  ASSERT_EQ(run({"train", "config.toml"}, {{"SPORKLE_DEBUG", "4"}, {"SPORKLE_TRACE", "trace.json"}}).exit_code, 0);
  EXPECT_TRUE(weights() == plain);
}

TEST_F(DebugTest, ATraceHoldsPlanningCompilingAndLaunches) {
  ASSERT_EQ(run({"train", "config.toml"},
                {{"SPORKLE_TRACE", "trace-%p.json"}, {"SPORKLE_CACHE", (folder_ / "cache").string()}})
                .exit_code,
            0);
  ASSERT_EQ(traces().size(), 1u);
  std::set<std::string> categories, names;
  double last_end = 0;
  for (const json& event : trace(traces()[0])) {
    ASSERT_TRUE(event.contains("ph") && event.contains("pid") && event.contains("tid")) << event;
    const std::string phase = event["ph"];
    ASSERT_TRUE(phase == "X" || phase == "M") << event;
    if (phase == "M") {
      ASSERT_TRUE(event["args"]["name"].is_string()) << event;
      continue;
    }
    const std::string category = event["cat"];
    categories.insert(category);
    ASSERT_GT(event["ts"].get<double>(), 0) << event;
    ASSERT_GE(event["dur"].get<double>(), 0) << event;
    if (category != "launch") continue;
    // Launches of one device come one after the other.
    EXPECT_GE(event["ts"].get<double>(), last_end - 0.002) << event;
    last_end = event["ts"].get<double>() + event["dur"].get<double>();
    const json& arguments = event["args"];
    names.insert(event["name"]);
    EXPECT_EQ(arguments["key"].get<std::string>().size(), 16u) << event;
    EXPECT_TRUE(arguments["schedule"].is_string() && arguments["flops"].is_number_unsigned()) << event;
    EXPECT_GT(arguments["read_bytes"].get<uint64_t>() + arguments["written_bytes"].get<uint64_t>(), 0u) << event;
    EXPECT_TRUE(arguments["source"].get<std::string>().starts_with("src/")) << event;
  }
  EXPECT_TRUE(categories.contains("plan") && categories.contains("compile") && categories.contains("launch"));
  EXPECT_TRUE(names.contains("matmul") && names.contains("layer_norm.f32"));
}

TEST_F(DebugTest, TheTraceOfAKilledProcessIsReadableUpToItsEnd) {
  std::string config = read("config.toml");
  write("config.toml", config.replace(config.find("steps = 2"), 9, "steps = 1000000"));
  Running running = start({"train", "config.toml", "--json"}, {{"SPORKLE_TRACE", "trace.json"}});
  ASSERT_TRUE(running.wait_for_output("\"step\"", 3)) << running.errors();
  // Another process leaves the file of a living one alone.
  fs::create_directory(folder_ / "other");
  write("other.toml",
        "[data]\npath = \"text.txt\"\n[model]\nlayers = 1\nheads = 2\nwidth = 32\ncontext = 16\n[output]\n"
        "directory = \"other\"\n[train]\nbatch_size = 2\neval_batches = 1\nsteps = 1\n");
  ASSERT_EQ(run({"train", "other.toml"}, {{"SPORKLE_TRACE", "trace.json"}}).exit_code, 0);
  EXPECT_EQ(traces().size(), 2u) << "trace.json and trace.json.<process>";
  running.send_signal(SIGKILL);
  EXPECT_EQ(running.wait().exit_code, 128 + SIGKILL);
  const std::string text = read("trace.json");
  ASSERT_TRUE(text.starts_with("[\n{")) << text.substr(0, 100);
  // Closed, as readers of the format do themselves, after the last whole line.
  const json events = json::parse(text.substr(0, text.rfind(",\n")) + "]", nullptr, false);
  ASSERT_TRUE(events.is_array());
  EXPECT_GT(events.size(), 20u);
}

TEST_F(DebugTest, ATraceThatCannotBeWrittenIsSaidAndTheCommandRuns) {
  const Output output = run({"train", "config.toml"}, {{"SPORKLE_TRACE", "no/such/folder/trace.json"}});
  EXPECT_EQ(output.exit_code, 0) << output.err;
  EXPECT_NE(output.err.find("cannot write no/such/folder/trace.json: No such file"), std::string::npos) << output.err;
  EXPECT_EQ(occurrences(output.err, "no trace is written"), 1u);
}

}  // namespace
}  // namespace sporkle::testing
