#include "apps/sporkle/bench_allreduce.h"

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <sstream>
#include <string>
#include <utility>

#include "apps/sporkle/allreduce_rival.h"
#include "apps/sporkle/allreduce_worker.h"
#include "base/child_process.h"
#include "base/temporary_folder.h"
#include "bench/statistics.h"

namespace sporkle::app {
namespace {

constexpr int kTimeout_ms = 60'000;
constexpr int kRepetitions = 3;  // in a round

// Processes that are all told the same and answer with one line each.
class Group {
 public:
  static Result<Group> start_ours(const AllreduceBenchOptions& options) {
    SPORKLE_ASSIGN_OR_RETURN(Group group, create());
    std::string join = "join";
    for (int64_t i = 0; i < options.processes; ++i) {
      ChildOptions child;
      child.program = own_program();
      child.arguments = {"bench", kAllreduceWorker, std::to_string(elements(options))};
      SPORKLE_RETURN_IF_ERROR(group.add(std::move(child)));
    }
    for (size_t i = 0; i < group.children_.size(); ++i) {
      SPORKLE_ASSIGN_OR_RETURN(std::string hello, group.read(i));
      std::replace(hello.begin(), hello.end(), ' ', '@');
      join += " " + hello;
    }
    SPORKLE_RETURN_IF_ERROR(group.ask(join).status());
    return group;
  }

  static Result<Group> start_gloo(const AllreduceBenchOptions& options) {
    SPORKLE_ASSIGN_OR_RETURN(Group group, create());
    const char* python = std::getenv("SPORKLE_PYTHON");
    for (int64_t i = 0; i < options.processes; ++i) {
      ChildOptions child;
      child.program = python && *python ? python : "python3";
      child.arguments = {"-c",
                         std::string(kGlooScript),
                         std::to_string(i),
                         std::to_string(options.processes),
                         std::to_string(elements(options)),
                         group.folder_.path().string()};
      child.environment = {{"GLOO_SOCKET_IFNAME", "lo"}};  // it would take an address of the host's name
      SPORKLE_RETURN_IF_ERROR(group.add(std::move(child)));
    }
    for (size_t i = 0; i < group.children_.size(); ++i) {
      SPORKLE_ASSIGN_OR_RETURN(const std::string ready, group.read(i));
      if (ready.rfind("ready ", 0) != 0) return internal_error("Gloo's side answered \"" + ready + "\"");
      group.version_ = ready.substr(6);
    }
    return group;
  }
  const std::string& version() const { return version_; }

  Status check() { return ask("check").status(); }
  // Of one all-reduce, in the slowest process.
  Result<double> run_s() { return slowest(ask("run " + std::to_string(kRepetitions))); }
  // The same with process `victim` killed in the middle. Nothing more can be asked then.
  Result<double> lose_s(size_t victim) {
    return slowest(ask("lose " + std::to_string(victim), static_cast<int64_t>(victim)));
  }

 private:
  explicit Group(TemporaryFolder folder) : folder_(std::move(folder)) {}
  static Result<Group> create() {
    SPORKLE_ASSIGN_OR_RETURN(TemporaryFolder folder, TemporaryFolder::create("sporkle-allreduce"));
    return Group(std::move(folder));
  }
  static int64_t elements(const AllreduceBenchOptions& options) { return options.mebibytes << 18; }

  Status add(ChildOptions child) {
    child.talks = true;
    child.error_log = folder_.path() / "errors.log";
    SPORKLE_ASSIGN_OR_RETURN(ChildProcess process, ChildProcess::start(child));
    children_.push_back(std::move(process));
    return {};
  }
  Result<std::string> read(size_t i) {
    std::optional<std::string> line = children_[i].read_line(kTimeout_ms);
    if (!line) return unavailable("process " + std::to_string(i) + " ended or did not answer within a minute");
    if (line->rfind("error ", 0) == 0) return Status(Code::unavailable, line->substr(6));
    return *std::move(line);
  }
  Result<std::vector<std::string>> ask(const std::string& line, int64_t silent = -1) {
    for (ChildProcess& child : children_) SPORKLE_RETURN_IF_ERROR(child.write_line(line));
    std::vector<std::string> answers;
    for (size_t i = 0; i < children_.size(); ++i) {
      if (static_cast<int64_t>(i) == silent) continue;
      SPORKLE_ASSIGN_OR_RETURN(std::string answer, read(i));
      answers.push_back(std::move(answer));
    }
    return answers;
  }
  static Result<double> slowest(const Result<std::vector<std::string>>& answers) {
    SPORKLE_RETURN_IF_ERROR(answers.status());
    double most = 0;
    for (const std::string& answer : *answers) {
      std::istringstream words(answer);
      double seconds = 0;
      if (!(words >> seconds) || !(seconds > 0)) return internal_error("an answer is \"" + answer + "\", not seconds");
      most = std::max(most, seconds);
    }
    return most;
  }

  TemporaryFolder folder_;
  std::vector<ChildProcess> children_;
  std::string version_;
};

bench::Record new_record(const AllreduceBenchOptions& options, const std::string& suffix) {
  bench::Record record;
  record.name = "allreduce";
  record.shape = std::to_string(options.mebibytes) + "MiBx" + std::to_string(options.processes) + suffix;
  record.dtype = "f32";
  record.numerics = "strict";
  record.device = "cpu";
  return record;
}

}  // namespace

Result<std::vector<bench::Record>> bench_allreduce(const AllreduceBenchOptions& options) {
  SPORKLE_ASSIGN_OR_RETURN(Group ours, Group::start_ours(options));
  SPORKLE_RETURN_IF_ERROR(ours.check());
  bench::Record record = new_record(options, "");
  std::optional<Group> gloo;
  if (options.against) {
    record.rival = "Gloo";
    Result<Group> started = Group::start_gloo(options);
    record.rival_version = started.ok() ? started->version() : started.status().message();
    if (started.ok()) {
      SPORKLE_RETURN_IF_ERROR(started->check().with_context("Gloo"));
      gloo = *std::move(started);
    }
  }
  const double gigabytes = static_cast<double>(options.mebibytes << 20) * 1e-9;
  std::vector<double> values, rival_values, ratios;
  for (int64_t i = 0; i < options.rounds; ++i) {
    SPORKLE_ASSIGN_OR_RETURN(const double seconds, ours.run_s());
    values.push_back(gigabytes / seconds);
    if (gloo) {
      SPORKLE_ASSIGN_OR_RETURN(const double rival_seconds, gloo->run_s());
      rival_values.push_back(gigabytes / rival_seconds);
      ratios.push_back(values.back() / rival_values.back());
    }
    if (options.on_progress) options.on_progress(static_cast<double>(i + 1) / static_cast<double>(options.rounds + 1));
  }
  record.value = bench::median(values);
  record.unit = "GB/s";
  record.seconds = gigabytes / record.value;
  record.bytes = gigabytes * 1e9;
  record.noise = bench::relative_noise(values);
  record.rounds = options.rounds;
  if (gloo) {
    record.rival_value = bench::median(rival_values);
    record.ratio = bench::median(ratios);
    record.ratio_min = *std::ranges::min_element(ratios);
    record.ratio_max = *std::ranges::max_element(ratios);
    record.ratio_noise = bench::relative_noise(ratios);
  }
  gloo.reset();

  bench::Record killed = new_record(options, ":killed");
  SPORKLE_ASSIGN_OR_RETURN(killed.seconds, ours.lose_s(static_cast<size_t>(options.processes / 2)));
  killed.value = killed.seconds * 1e3;
  killed.unit = "ms";
  killed.rounds = 1;
  return std::vector<bench::Record>{record, killed};
}

}  // namespace sporkle::app
