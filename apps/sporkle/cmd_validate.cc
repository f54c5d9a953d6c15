#include <chrono>
#include <cstdio>
#include <map>
#include <memory>
#include <string>

#include "apps/sporkle/cli.h"
#include "apps/sporkle/commands.h"
#include "base/json_writer.h"
#include "base/progress.h"
#include "base/terminal.h"
#include "validate/document.h"
#include "validate/validate.h"

namespace sporkle::app {
namespace {

constexpr int64_t kLongRounds = 20, kLongScale = 4;  // times the usual

struct ValidateOptions {
  std::vector<std::string> devices, operations;
  int64_t seed = 1, rounds = 12, call = -1, workers = 2;
  bool take_long = false, json = false, markdown = false;
};

// The command that repeats a failure and nothing else.
std::string reproduction(const ValidateOptions& o, const validate::Report& report, const std::string& device) {
  std::string command = "sporkle validate --op " + report.operation + " --seed " + std::to_string(o.seed) + " --call " +
                        std::to_string(report.failure->call) + " --device " + device;
  if (o.take_long) command += " --long";
  return command;
}

std::string device_of(const validate::Options& options, const std::string& subject) {
  for (const validate::Subject& one : options.subjects)
    if (one.name == subject) return one.device_id;
  return subject;
}

void print_json(const ValidateOptions& o, const validate::Options& options, const validate::Report& r) {
  JsonObject object;
  object.add("event", "operation").add("operation", r.operation).add("calls", r.calls).add("gradients", r.gradients);
  object.add("schedules", r.schedules).add("elements", r.elements).add("limit", r.limit);
  object.add("max_ulp", r.worst_ulp).add("share_of_limit", r.worst_share).add("failures", r.failures);
  object.add("ok", !r.failure);
  if (r.untested > 0) object.add("untested", r.untested).add("untested_why", r.untested_why);
  if (r.failure) {
    const validate::FailedCall& f = *r.failure;
    object.add("call", f.call).add("check", f.check).add("subject", f.subject).add("operands", f.operands);
    object.add("what", f.what).add("reproduce", reproduction(o, r, device_of(options, f.subject)));
  }
  std::printf("%s\n", object.text().c_str());
}

std::string verdict_of(const validate::Report& r) {
  if (r.failure) return "FAILED " + std::to_string(r.failures) + "x";
  return r.untested > 0 ? "ok, " + std::to_string(r.untested) + " untested" : "ok";
}

void print_table(const ValidateOptions& o, const validate::Options& options,
                 const std::vector<validate::Report>& reports) {
  std::printf("%-22s %6s %9s %9s %10s %10s  %s\n", "operation", "calls", "gradients", "schedules", "max ULP",
              "of limit", "verdict");
  for (const validate::Report& r : reports)
    std::printf("%-22s %6lld %9lld %9lld %10s %9.0f%%  %s\n", r.operation.c_str(), static_cast<long long>(r.calls),
                static_cast<long long>(r.gradients), static_cast<long long>(r.schedules),
                validate::ulp_text(r.worst_ulp).c_str(), 100 * r.worst_share, verdict_of(r).c_str());
  // The same device says the same of many operations.
  std::map<std::string, std::string> untested;
  for (const validate::Report& r : reports)
    if (r.untested > 0) untested[r.untested_why] += " " + r.operation;
  for (const auto& [why, names] : untested)
    std::printf("\nUntested where f64 is needed, %s\n  calls of%s\n", why.c_str(), names.c_str());
  for (const validate::Report& r : reports) {
    if (!r.failure) continue;
    const validate::FailedCall& f = *r.failure;
    std::printf("\n%s, %s, on %s\n  of %s\n  %s\n  %s\n", r.operation.c_str(), f.check.c_str(), f.subject.c_str(),
                f.operands.c_str(), f.what.c_str(), reproduction(o, r, device_of(options, f.subject)).c_str());
  }
}

Status run_validation(const ValidateOptions& o) {
  validate::Options options;
  SPORKLE_ASSIGN_OR_RETURN(options.subjects, validate::find_subjects(o.devices));
  options.operations = o.operations;
  options.seed = static_cast<uint64_t>(o.seed);
  options.rounds = o.rounds * (o.take_long ? kLongRounds : 1);
  options.scale = o.take_long ? kLongScale : 1;
  options.workers = static_cast<int>(o.workers);
  if (o.call >= 0) options.only_call = o.call;

  Terminal terminal(2);
  ProgressOptions quiet;
  quiet.quiet = o.json || o.markdown;
  std::unique_ptr<Progress> progress;
  options.progress = [&](int64_t done, int64_t total, const std::string& operation) {
    if (!progress) progress = std::make_unique<Progress>(&terminal, "Validating", static_cast<double>(total), quiet);
    progress->update(static_cast<double>(done), operation);
  };
  const auto started = std::chrono::steady_clock::now();
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<validate::Report> reports, validate::validate(options));
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  int64_t failed = 0, elements = 0;
  for (const validate::Report& report : reports) {
    failed += report.failure.has_value();
    elements += report.elements;
  }
  if (progress) progress->finish(std::to_string(elements) + " elements checked");
  if (o.markdown) {
    std::printf("%s", validate::operations_page(reports).c_str());
  } else if (o.json) {
    for (const validate::Report& report : reports) print_json(o, options, report);
    JsonArray subjects;
    for (const validate::Subject& subject : options.subjects) subjects.add(subject.name);
    JsonObject summary;
    summary.add("event", "summary").add("operations", reports.size()).add("failed", failed);
    summary.add("elements", elements).add("subjects", subjects).add("seed", o.seed).add("seconds", seconds);
    std::printf("%s\n", summary.text().c_str());
  } else {
    std::printf("Devices:");
    for (const validate::Subject& subject : options.subjects) std::printf(" [%s]", subject.name.c_str());
    std::printf("\n");
    print_table(o, options, reports);
  }
  if (failed == 0) return {};
  std::string names;
  for (const validate::Report& report : reports)
    if (report.failure) names += (names.empty() ? "" : ", ") + report.operation + " (" + report.failure->what + ")";
  return internal_error(std::to_string(failed) + " of " + std::to_string(reports.size()) +
                        " operations are not what they should be: " + names);
}

}  // namespace

void register_validate(Cli& cli) {
  auto options = std::make_shared<ValidateOptions>();
  Command command = cli.command("validate", "Check every operation on every device against its definition");
  command.option("--device", &options->devices, "Only these devices; `sporkle devices` lists them").value_name("ID");
  command.option("--op", &options->operations, "Only these operations; docs/operations.md lists them")
      .value_name("NAME");
  command.option("--seed", &options->seed, "What the calls are drawn from").range(0, 1e15).value_name("N");
  command.option("--rounds", &options->rounds, "Calls of each operation").range(1, 1'000'000).value_name("N");
  command.option("--call", &options->call, "Only the call of this number, as a failure names it")
      .range(0, 1e9)
      .value_name("N");
  command.option("--workers", &options->workers, "Threads that go through calls").range(1, 256).value_name("N");
  command.flag("--long", &options->take_long, "Twenty times as many calls, with up to four times the elements");
  command.flag("--json", &options->json, "Print one JSON object a line");
  command.flag("--markdown", &options->markdown, "Print the page docs/operations.md");
  command.computes();
  command.example("validate --device cpu", "Every instruction set of this processor, with 1 and 2 threads.");
  command.example("validate --op sum --rounds 1000", "One operation, thoroughly.");
  command.action([options] { return run_validation(*options); });
}

}  // namespace sporkle::app
