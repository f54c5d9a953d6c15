#include <cstdio>
#include <memory>
#include <string>
#include <utility>

#include "apps/sporkle/cli.h"
#include "apps/sporkle/commands.h"
#include "apps/sporkle/interrupt.h"
#include "apps/sporkle/train_view.h"
#include "base/terminal.h"
#include "train/trainer.h"

namespace sporkle::app {
namespace {

struct TrainOptions {
  std::string config;
  bool resume = false;
  bool json = false;
  bool help_config = false;
  int64_t threads = 0;
  int64_t stop_after = 0;
  int64_t memory_cap_mb = 0;
  std::string device;
};

Status train_model(const TrainOptions& o) {
  if (o.help_config) {
    std::printf("%s", train::config_help().c_str());
    return {};
  }
  if (o.config.empty())
    return invalid_argument(
        "which CONFIG.toml? The smallest one is two lines, [data] and corpus = \"kjv\"; "
        "`sporkle train --help-config` lists every key");
  SPORKLE_ASSIGN_OR_RETURN(train::TrainConfig config, train::load_config(o.config));
  if (o.threads > 0) config.train.threads = o.threads;
  if (o.memory_cap_mb > 0) config.train.memory_cap_mb = o.memory_cap_mb;
  const train::DeviceChoice choice{o.device, static_cast<int>(config.train.threads),
                                   static_cast<size_t>(config.train.memory_cap_mb) * 1'000'000};

  TrainView view(o.json);
  const auto preparing = [&](std::string_view what, uint64_t done, uint64_t total) {
    view.preparing(what, done, total);
  };
  auto created = train::Trainer::create(config, choice, o.resume, preparing);
  if (!created.ok()) {
    view.release();
    return created.status();
  }
  train::Trainer& trainer = **created;
  const std::string corpus = config.data.corpus.empty() ? config.data.path : config.data.corpus;
  view.start(trainer, corpus);

  catch_interrupts();
  train::TrainCallbacks callbacks;
  callbacks.step = [&, first = true](const train::StepReport& report) mutable {
    if (std::exchange(first, false)) view.first_step(trainer, report);
    view.step(report);
  };
  callbacks.evaluating = [&](int64_t done, int64_t total) { view.evaluating(done, total); };
  callbacks.evaluated = [&](int64_t step, const train::Evaluation& evaluation) { view.evaluated(step, evaluation); };
  callbacks.saved = [&](int64_t step, const std::filesystem::path& path) { view.saved(step, path); };
  callbacks.recovered = [&](int64_t step, int64_t resumes_at, const Status& failure) {
    view.recovered(step, resumes_at, failure);
  };
  callbacks.stop = [&] { return interrupted() || (o.stop_after > 0 && trainer.step() >= o.stop_after); };
  if (Status status = trainer.train(callbacks); !status.ok()) {
    view.release();
    return status;
  }
  return view.finish(trainer, "sporkle train " + printable(o.config) + " --resume");
}

}  // namespace

void register_train(Cli& cli) {
  auto options = std::make_shared<TrainOptions>();
  Command command = cli.command("train", "Train a model on this machine");
  command.option("config", &options->config, "What to train on what; --help-config lists its keys")
      .value_name("CONFIG.toml");
  command.flag("--resume", &options->resume, "Go on from the latest checkpoint, to the same bits as without a break");
  command
      .option("--stop-after", &options->stop_after,
              "Save and end after this step, as Ctrl-C would; 0: train to the end")
      .range(0, 1e15)
      .value_name("STEP");
  command.option("--threads", &options->threads, "Threads that compute; 0: as the config says")
      .range(0, 4096)
      .value_name("N");
  command
      .option(
          "--memory-cap", &options->memory_cap_mb,
          "Most megabytes that training may take, at the cost of computing activations again; 0: as the config says")
      .range(0, 1e9)
      .value_name("MB");
  command
      .option("--device", &options->device,
              "Where to compute; `sporkle devices` lists them. Several, as in cpu,vulkan:0, share every step")
      .value_name("ID");
  command.flag("--json", &options->json, "Print one event a line, the last with \"event\":\"summary\"");
  command.flag("--help-config", &options->help_config, "Explain every key of a config and exit");
  command.computes();
  command.example("train examples/configs/kjv-small.toml", "Trains a small model on the King James Bible in minutes.");
  command.example("train my.toml --device cpu,vulkan:0",
                  "Each device takes as many of a step's gradient_accumulation parts as it is fast.");
  command.example("train my.toml --resume", "Goes on after Ctrl-C, which saves, or after a crash.");
  command.action([options] { return train_model(*options); });
}

}  // namespace sporkle::app
