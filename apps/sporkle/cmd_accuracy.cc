#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <optional>

#include "apps/sporkle/cli.h"
#include "apps/sporkle/commands.h"
#include "base/edit_distance.h"
#include "base/json_writer.h"
#include "base/progress.h"
#include "base/terminal.h"
#include "validate/accuracy.h"

namespace sporkle::app {
namespace {

struct AccuracyCommand {
  std::vector<std::string> functions;
  int64_t samples = 1 << 20;
  int64_t threads = 0;
  std::string device = "cpu";
  bool exhaustive = false;
  bool json = false;
};

std::string input_text(float input) {
  char text[64];
  std::snprintf(text, sizeof text, "%.9g", static_cast<double>(input));
  return text;
}

void print_json(const validate::MathFunction& function, const validate::Accuracy& a, const std::string& device) {
  JsonObject object;
  object.add("name", "accuracy").add("function", function.name).add("dtype", "f32").add("device", device);
  object.add("inputs", a.inputs).add("max_ulp", a.ours.ulp).add("at", a.ours.input).add("not_nearest", a.ours.above);
  object.add("limit_ulp", function.limit_ulp).add("holds", a.holds);
  if (function.c_library) object.add("c_library_max_ulp", a.c_library.ulp).add("c_library_at", a.c_library.input);
  if (a.c_vectors) {
    object.add("c_vector_lanes", a.c_vector_lanes).add("c_vectors_max_ulp", a.c_vectors->ulp);
    object.add("c_vectors_at", a.c_vectors->input);
  }
  std::printf("%s\n", object.text().c_str());
  std::fflush(stdout);
}

void print_row(const validate::MathFunction& function, const validate::Accuracy& a) {
  char theirs[32] = "-", by_vectors[32] = "-";
  if (function.c_library) std::snprintf(theirs, sizeof theirs, "%.4f", a.c_library.ulp);
  if (a.c_vectors) std::snprintf(by_vectors, sizeof by_vectors, "%.4f", a.c_vectors->ulp);
  std::printf("%-11s %9.4f  %-16s %8.4f  %-15s  %9s %10s\n", std::string(function.name).c_str(), a.ours.ulp,
              input_text(a.ours.input).c_str(), function.limit_ulp, a.holds ? "holds" : "ABOVE THE LIMIT", theirs,
              by_vectors);
  std::fflush(stdout);
}

Status run_accuracy(const AccuracyCommand& command) {
  std::vector<const validate::MathFunction*> chosen;
  std::vector<std::string> known;
  for (const validate::MathFunction& function : validate::math_functions()) known.emplace_back(function.name);
  for (const std::string& name : command.functions) {
    const auto found = std::ranges::find(known, name);
    if (found == known.end()) {
      const std::string nearest = nearest_name(name, known);
      return invalid_argument("there is no function \"" + name + "\"" +
                              (nearest.empty() ? "" : "; did you mean \"" + nearest + "\"?"));
    }
    chosen.push_back(&validate::math_functions()[static_cast<size_t>(found - known.begin())]);
  }
  if (chosen.empty())
    for (const validate::MathFunction& function : validate::math_functions()) chosen.push_back(&function);

  validate::AccuracyOptions options;
  options.samples = command.exhaustive ? uint64_t{1} << 32 : static_cast<uint64_t>(command.samples);
  options.threads = static_cast<int>(command.threads);
  options.device = command.device;
  if (!command.json)
    std::printf(
        "f32 on %s, %llu inputs each; errors in units in the last place\n%-11s %9s  %-16s %8s  %-15s  %9s %10s\n",
        command.device.c_str(), static_cast<unsigned long long>(options.samples), "function", "largest", "at", "limit",
        "", "C library", "its vectors");
  Terminal terminal(2);
  bool all_hold = true;
  for (const validate::MathFunction* function : chosen) {
    std::optional<Progress> progress;  // a sample is done before anyone would look
    if (options.samples > uint64_t{1} << 26)
      progress.emplace(&terminal, std::string(function->name), static_cast<double>(options.samples));
    options.progress = [&](uint64_t done) {
      if (progress) progress->update(static_cast<double>(done));
    };
    SPORKLE_ASSIGN_OR_RETURN(const validate::Accuracy accuracy, validate::measure_accuracy(*function, options));
    command.json ? print_json(*function, accuracy, command.device) : print_row(*function, accuracy);
    all_hold = all_hold && accuracy.holds;
  }
  if (!all_hold) return internal_error("a function's error is above its limit");
  return {};
}

}  // namespace

void register_accuracy(Cli& cli) {
  auto options = std::make_shared<AccuracyCommand>();
  Command command =
      cli.command("accuracy", "Measure the errors of exp, log, sin and others in units in the last place");
  command.option("--function", &options->functions, "Only this function; may be repeated");
  command.option("--samples", &options->samples, "Inputs, spread evenly over all f32 numbers").range(1, 0x1p32);
  command.flag("--exhaustive", &options->exhaustive, "All 2^32 inputs: a minute or two for each function");
  command.option("--device", &options->device, "Where our functions run; see `sporkle devices`");
  command.option("--threads", &options->threads, "Compute threads; 0: all cores").range(0, 1024);
  command.flag("--json", &options->json, "Print one JSON object a line");
  command.computes();
  command.example("accuracy", "An even sample of a million inputs for each function, in a few seconds.");
  command.example("accuracy --function exp --exhaustive", "Every f32 number there is.");
  command.action([options] { return run_accuracy(*options); });
}

}  // namespace sporkle::app
