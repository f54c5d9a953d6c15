#include <charconv>
#include <cstdio>
#include <memory>

#include "apps/sporkle/cli.h"
#include "apps/sporkle/commands.h"
#include "base/format_units.h"
#include "base/json_writer.h"
#include "base/progress.h"
#include "base/terminal.h"
#include "bench/tune_products.h"
#include "hal/host/system.h"
#include "train/config.h"

namespace sporkle::app {
namespace {

struct TuneCommand {
  std::vector<std::string> shapes;
  std::string device = "cpu";
  std::string config, budget = "60s", output;
  int64_t threads = 0, vocabulary = 256;
  bool again = false, json = false;
};

// "90s", "5m", "1h"; a number alone is seconds.
Result<double> parse_budget(const std::string& text) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const std::string unit(end, text.data() + text.size());
  const double scale = unit.empty() || unit == "s" ? 1 : unit == "m" ? 60 : unit == "h" ? 3600 : 0;
  if (error != std::errc() || scale == 0 || !(number > 0) || number * scale > 30 * 86400.0)
    return invalid_argument("budget \"" + text + "\" is no time such as 90s, 5m or 1h, of at most 30 days");
  return number * scale;
}

// Of a tune::TunedProduct or TunedGpuProduct.
void print_result(const TuneCommand& command, const tune::ProductShape& shape, const auto& result, int measured,
                  bool known) {
  const double gain = result.usual_seconds / result.seconds;
  if (command.json) {
    JsonObject object;
    object.add("event", "shape")
        .add("device", command.device)
        .add("shape", shape.key())
        .add("plan", result.plan.text());
    object.add("seconds", result.seconds).add("usual_seconds", result.usual_seconds).add("speedup", gain);
    object.add("measured", measured).add("known", known);
    std::printf("%s\n", object.text().c_str());
  } else {
    std::printf("%-26s %-46s %10s %6.2fx  %s\n", shape.key().c_str(), result.plan.text().c_str(),
                format_duration(result.seconds).c_str(), gain,
                known ? "known" : (std::to_string(measured) + " measured").c_str());
  }
  std::fflush(stdout);
}

Status run_tune(const TuneCommand& command) {
  bench::TuneOptions options;
  SPORKLE_ASSIGN_OR_RETURN(options.budget_seconds, parse_budget(command.budget));
  for (const std::string& text : command.shapes) {
    SPORKLE_ASSIGN_OR_RETURN(const tune::ProductShape shape, bench::parse_tuned_shape(text));
    options.shapes.push_back(shape);
  }
  if (!command.config.empty()) {
    SPORKLE_ASSIGN_OR_RETURN(const train::TrainConfig config, train::load_config(command.config));
    const int64_t rows = config.train.batch_size / std::max<int64_t>(config.train.gradient_accumulation, 1);
    for (const tune::ProductShape& shape :
         bench::shapes_of_model(config.model, std::max<int64_t>(rows, 1), command.vocabulary))
      options.shapes.push_back(shape);
  }
  if (options.shapes.empty())
    return invalid_argument("nothing to tune: give shapes with --shape, or a training configuration with --config");
  SPORKLE_ASSIGN_OR_RETURN(options.threads, hal::thread_count(static_cast<int>(command.threads)));
  options.again = command.again;
  options.device = command.device;
  options.database = command.output.empty() ? tune::Database::default_path() : std::filesystem::path(command.output);

  Terminal terminal(2);
  ProgressOptions quiet;
  quiet.quiet = command.json;
  Progress progress(&terminal, "tune", options.budget_seconds, quiet);
  options.on_progress = [&](double spent, const std::string& what) {
    progress.update(std::min(spent, options.budget_seconds), what);
  };
  options.on_notice = [&](const std::string& text) { terminal.print(text); };
  options.on_result = [&](const tune::ProductShape& shape, const tune::TunedProduct& result, int measured, bool known) {
    print_result(command, shape, result, measured, known);
  };
  options.on_gpu_result = [&](const tune::ProductShape& shape, const tune::TunedGpuProduct& result, int measured,
                              bool known) { print_result(command, shape, result, measured, known); };
  SPORKLE_RETURN_IF_ERROR(bench::tune_products(options));
  progress.finish("written to " + options.database.string());
  return {};
}

}  // namespace

void register_tune(Cli& cli) {
  auto options = std::make_shared<TuneCommand>();
  Command command = cli.command("tune", "Search for the fastest way to multiply matrices on a device of this machine");
  command.option("--shape", &options->shapes, "Repeatable: [BATCHES*]MxNxK[:nn|nt|tn|tt][@f64]").value_name("SHAPE");
  command.option("--device", &options->device, "What to tune: cpu, or a GPU as `sporkle devices` names it")
      .value_name("ID");
  command.option("--config", &options->config, "The products of a training step of this configuration")
      .value_name("FILE");
  command.option("--vocabulary", &options->vocabulary, "With --config: the tokenizer's entries")
      .range(1, 1e7)
      .value_name("N");
  command.option("--budget", &options->budget, "Time for all shapes together: 90s, 5m, 1h").value_name("TIME");
  command.option("--threads", &options->threads, "Of the processor; 0: as many as may be used")
      .range(0, 1024)
      .value_name("N");
  command.option("--output", &options->output, "The database, instead of the one that every command reads")
      .value_name("FILE");
  command.flag("--again", &options->again, "Also shapes that the database has already");
  command.flag("--json", &options->json, "Print one JSON object a line");
  command.example("tune --config examples/configs/kjv-small.toml --budget 2m",
                  "Everything that this model multiplies.");
  command.example("tune --shape 1024x1024x1024 --shape 64x3072x768", "Two shapes, one minute.");
  command.example("tune --device vulkan:0 --shape 4096x4096x4096 --budget 2m", "One shape on the first GPU.");
  command.action([options] { return run_tune(*options); });
}

}  // namespace sporkle::app
