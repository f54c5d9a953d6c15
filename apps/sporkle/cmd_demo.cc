#include <chrono>
#include <cstdio>
#include <memory>

#include "apps/sporkle/cli.h"
#include "apps/sporkle/commands.h"
#include "apps/sporkle/demo.h"
#include "apps/sporkle/interrupt.h"
#include "base/json_writer.h"
#include "base/terminal.h"

namespace sporkle::app {
namespace {

struct CommandOptions {
  std::string directory = "demo";
  std::string corpus = "kjv";
  std::string prompt = "And it came to pass";
  int64_t tokens = 0;
  int64_t threads = 0;
  bool json = false;
};

Status demo(const CommandOptions& o) {
  const DemoOptions options{o.directory, o.corpus, o.tokens, o.threads, o.prompt};
  Terminal terminal(1);
  auto printed = std::chrono::steady_clock::now() - std::chrono::hours(1);
  DemoCallbacks callbacks;
  callbacks.show = [&](const DemoScreen& screen) {
    if (o.json) return;
    if (terminal.interactive()) {
      terminal.redraw(render_demo_screen(screen, {terminal.width(), terminal.height(), terminal.colour()}));
    } else if (std::chrono::steady_clock::now() - printed > std::chrono::seconds(10)) {
      printed = std::chrono::steady_clock::now();
      std::printf("%s\n", render_demo_line(screen).c_str());
      std::fflush(stdout);
    }
  };
  callbacks.event = [&](const std::string& text) {
    if (o.json)
      std::printf("%s\n", JsonObject().add("event", "note").add("message", text).text().c_str());
    else if (!terminal.interactive())
      std::printf("%s\n", text.c_str());
    std::fflush(stdout);
  };
  catch_interrupts();
  callbacks.stop = [] { return interrupted(); };
  SPORKLE_ASSIGN_OR_RETURN(const DemoSummary summary, run_demo(options, callbacks));
  if (o.json) {
    std::printf("%s\n", demo_summary_json(summary).c_str());
    return {};
  }
  terminal.release();
  for (const std::string& line : render_demo_summary(summary, terminal.width(), terminal.colour()))
    std::printf("%s\n", line.c_str());
  return {};
}

}  // namespace

void register_demo(Cli& cli) {
  auto options = std::make_shared<CommandOptions>();
  CommandOptions& o = *options;
  Command command = cli.command("demo", "Train a GPT on real text over a small mesh of processes on this machine");
  command.option("--directory", &o.directory, "Where configurations, logs and checkpoints go").value_name("DIR");
  command.option("--corpus", &o.corpus, "The text to train on").value_name("NAME");
  command.option("--tokens", &o.tokens, "Tokens to train on; 0: the demo's own number").range(0, 1e12);
  command.option("--threads", &o.threads, "Threads for the comparison; 0: one for each core").range(0, 4096);
  command.option("--prompt", &o.prompt, "What the written passage starts with").value_name("TEXT");
  command.flag("--json", &o.json, "Print one JSON event a line, the last one the summary");
  command.computes();
  command.example("demo", "Four workers of different speeds; one is killed, a fresh one joins.");
  command.action([options] { return demo(*options); });
}

}  // namespace sporkle::app
