// `sporkle bench compare`, and `sporkle bench report`: what to make of results that were kept.
#include <cstdio>
#include <memory>

#include "apps/sporkle/cli.h"
#include "apps/sporkle/commands.h"
#include "base/file.h"
#include "base/format_units.h"
#include "base/json_writer.h"
#include "base/terminal.h"
#include "bench/compare.h"
#include "bench/report.h"
#include "bench/results_file.h"

namespace sporkle::app {
namespace {

using bench::Change;
using bench::Comparison;
using bench::Record;
using bench::Verdict;

struct CompareCommand {
  std::string old_path, new_path;
  bench::CompareOptions options;
  bool json = false;
};

const char* verdict_name(Verdict verdict) {
  return verdict == Verdict::slower ? "slower" : verdict == Verdict::faster ? "faster" : "unchanged";
}

JsonObject row_object(const Record& record) {
  JsonObject object;
  object.add("name", record.name).add("shape", record.shape).add("dtype", record.dtype);
  object.add("numerics", record.numerics).add("device", record.device).add("threads", record.threads);
  object.add("rival", record.rival);
  return object;
}

void print_json(const Comparison& comparison) {
  for (const std::string& warning : comparison.warnings)
    std::printf("%s\n", JsonObject().add("event", "warning").add("message", warning).text().c_str());
  for (const Change& change : comparison.changes) {
    JsonObject object = row_object(change.new_record);
    object.add("old_value", change.old_record.value).add("new_value", change.new_record.value);
    object.add("unit", change.new_record.unit).add("slowdown", change.slowdown).add("by_ratio", change.by_ratio);
    object.add("margin", change.margin);
    std::printf("%s\n", object.add("verdict", verdict_name(change.verdict)).text().c_str());
  }
  for (const Record& record : comparison.missing)
    std::printf("%s\n", row_object(record).add("verdict", "missing").text().c_str());
  for (const Record& record : comparison.added)
    std::printf("%s\n", row_object(record).add("verdict", "new").text().c_str());
}

// "15.3 % slower".
std::string change_text(double slowdown) {
  if (slowdown >= 0) return format_fixed(100 * slowdown, 1) + " % slower";
  return format_fixed(100 * (1 / (1 + slowdown) - 1), 1) + " % faster";
}

void print_changes(const Comparison& comparison, Verdict verdict, const char* title) {
  if (comparison.count(verdict) == 0) return;
  std::printf("%s:\n", title);
  for (const Change& change : comparison.changes) {
    if (change.verdict != verdict) continue;
    std::printf("  %s\n    %s%s (margin %.1f %%): %.4g -> %.4g %s",
                printable(bench::row_name(change.new_record)).c_str(), change_text(change.slowdown).c_str(),
                change.by_ratio ? " beside the rival" : "", 100 * change.margin, change.old_record.value,
                change.new_record.value, printable(change.new_record.unit).c_str());
    if (change.by_ratio) std::printf(", ratio %.3g -> %.3g", *change.old_record.ratio, *change.new_record.ratio);
    std::printf("\n");
  }
}

void print_text(const Comparison& comparison) {
  for (const std::string& warning : comparison.warnings)
    std::fprintf(stderr, "warning: %s\n", printable(warning).c_str());
  print_changes(comparison, Verdict::slower, "slower");
  print_changes(comparison, Verdict::faster, "faster");
  if (!comparison.missing.empty()) std::printf("only in the old results:\n");
  for (const Record& record : comparison.missing) std::printf("  %s\n", printable(bench::row_name(record)).c_str());
  if (!comparison.added.empty()) std::printf("only in the new results:\n");
  for (const Record& record : comparison.added) std::printf("  %s\n", printable(bench::row_name(record)).c_str());
  std::printf("%zu rows compared: %zu slower, %zu faster, %zu unchanged within the noise\n", comparison.changes.size(),
              comparison.count(Verdict::slower), comparison.count(Verdict::faster),
              comparison.count(Verdict::unchanged));
}

Status compare_results(const CompareCommand& command) {
  SPORKLE_ASSIGN_OR_RETURN(const bench::ResultsFile old_file, bench::read_results(command.old_path));
  SPORKLE_ASSIGN_OR_RETURN(const bench::ResultsFile new_file, bench::read_results(command.new_path));
  SPORKLE_ASSIGN_OR_RETURN(const Comparison comparison, bench::compare(old_file, new_file, command.options));
  if (command.json)
    print_json(comparison);
  else
    print_text(comparison);
  const size_t slower = comparison.count(Verdict::slower);
  if (slower == 0) return {};
  return {Code::unavailable, std::to_string(slower) + (slower == 1 ? " row is" : " rows are") +
                                 " slower than the noise explains; measure again on an idle machine to be sure"};
}

struct ReportCommand {
  std::string folder = "bench/results";
  std::string output = "report.html";
};

Status write_report(const ReportCommand& command) {
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<bench::ResultsFile> files, bench::read_results_folder(command.folder));
  const std::string page = bench::report_page(files);
  SPORKLE_RETURN_IF_ERROR(write_file_atomically(command.output, page));
  std::printf("%s: %zu results files, %s\n", printable(command.output).c_str(), files.size(),
              format_bytes(static_cast<double>(page.size())).c_str());
  return {};
}

}  // namespace

void register_bench_reports(Command bench) {
  auto report_command = std::make_shared<ReportCommand>();
  Command report = bench.command("report", "Results files of a folder as one HTML page with plots");
  report.option("folder", &report_command->folder, "Where the results files *.jsonl are");
  report.option("--output", &report_command->output, "The page, which needs no other file").value_name("FILE");
  report.example("bench report bench/results --output report.html",
                 "Roofline, ratios to rivals, history, machines, and the command behind each number.");
  report.action([report_command] { return write_report(*report_command); });

  auto command = std::make_shared<CompareCommand>();
  Command compare = bench.command("compare", "What became slower or faster between two results files");
  compare.option("old", &command->old_path, "Results as bench --save or --json wrote them").required();
  compare.option("new", &command->new_path, "Later results of the same machine").required();
  compare.option("--threshold", &command->options.threshold, "Changes up to this fraction never count")
      .range(0.001, 10);
  compare.flag("--across-machines", &command->options.across_machines, "Compare although the machines differ");
  compare.flag("--json", &command->json, "Print one JSON object a row");
  compare.example("bench compare old.jsonl new.jsonl",
                  "Lists changes beyond the noise of both; fails when a row became slower.");
  compare.action([command] { return compare_results(*command); });
}

}  // namespace sporkle::app
