#include "validate/validate.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>

#include "validate/check.h"
#include "validate/operations.h"
#include "validate/schedules.h"

namespace sporkle::validate {
namespace {

using tensor::Draw;
using tensor::DType;
using tensor::OpRow;

constexpr int64_t kCallsForAGradient = 2;  // every so many calls, one of the operation's gradient
constexpr int64_t kCallsForSchedules = 6;  // and one under other schedules
constexpr int kSchedules = 4;
constexpr int64_t kLeastScheduled = 100, kMostScheduled = 20'000;  // elements
constexpr double kUsualType = 0.65;                                // share of the calls in the operation's first type

struct Task {
  size_t operation;  // among the rows asked for
  int64_t call;
};

uint64_t seed_of(uint64_t seed, std::string_view operation, int64_t call) {
  uint64_t hash = seed ^ 0xcbf29ce484222325u;  // FNV-1a
  for (const char c : operation) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return Draw(hash + static_cast<uint64_t>(call) * 0x9E3779B97F4A7C15u, DType::f32, false).bits();
}

std::string types_text(const OpRow& row) {
  std::string text;
  for (const DType type : row.types) text += (text.empty() ? "" : " ") + std::string(ir::dtype_name(type));
  return text;
}

class Run {
 public:
  Run(const Options& options, std::vector<const OpRow*> rows) : options_(options), rows_(std::move(rows)) {
    for (const OpRow* row : rows_)
      reports_.push_back({row->name, row->group, types_text(*row), row->limit, row->has_gradient});
    const int64_t first = options.only_call.value_or(0);
    const int64_t count = options.only_call ? 1 : options.rounds;
    for (size_t i = 0; i < rows_.size(); ++i)
      for (int64_t call = first; call < first + count; ++call) tasks_.push_back({i, call});
  }

  // Takes calls until none is left. Any number of threads.
  Status work() {
    SPORKLE_ASSIGN_OR_RETURN(const std::unique_ptr<Bench> bench, Bench::open(options_.subjects));
    for (size_t next; (next = next_++) < tasks_.size();) {
      run(*bench, tasks_[next]);
      const std::lock_guard lock(mutex_);
      ++done_;
      if (options_.progress)
        options_.progress(done_, static_cast<int64_t>(tasks_.size()), rows_[tasks_[next].operation]->name);
    }
    return {};
  }

  std::vector<Report> take_reports() { return std::move(reports_); }

 private:
  void run(Bench& bench, const Task& task) {
    const OpRow& row = *rows_[task.operation];
    const uint64_t seed = seed_of(options_.seed, row.name, task.call);
    Draw choice(seed, DType::f32, false);
    DType type = row.types[0];
    if (row.types.size() > 1 && !choice.chance(kUsualType))
      type = row.types[static_cast<size_t>(choice.integer(1, static_cast<int64_t>(row.types.size()) - 1))];
    Draw draw(choice.bits(), type, false, options_.scale);
    const DrawnCall drawn = DrawnCall::draw(row, draw);
    const Outcome values = check_values(bench, drawn, type);
    add(task, drawn, "values", values, [](Report& report) { ++report.calls; });
    const auto add_schedules = [&](const DrawnCall& scheduled, const Outcome& outcome) {
      add(task, scheduled, "schedules", outcome, [&](Report& report) { report.schedules += outcome.schedules; });
    };
    if (task.call % kCallsForSchedules == 0 && !values.untested)
      add_schedules(drawn, check_schedules(bench, drawn, draw, kSchedules));
    if (task.call == 0 && !values.untested) {
      // Of a size at which every item matters, and that is quick. Operations without operands have what they have.
      DrawnCall whole = drawn;
      const auto is_fit = [&] { return whole.elements() >= kLeastScheduled && whole.elements() <= kMostScheduled; };
      for (int attempt = 0; attempt < 100 && !is_fit(); ++attempt) whole = DrawnCall::draw(row, draw);
      add_schedules(whole, check_schedule_items(bench, whole));
    }
    if (row.has_gradient && task.call % kCallsForAGradient == 0) {
      Draw small(choice.bits(), DType::f32, true);
      const DrawnCall differentiated = DrawnCall::draw(row, small);
      add(task, differentiated, "gradients", check_gradients(bench, differentiated, small),
          [](Report& report) { ++report.gradients; });
    }
  }

  template <typename Count>
  void add(const Task& task, const DrawnCall& drawn, const char* check, const Outcome& outcome, const Count& count) {
    const std::lock_guard lock(mutex_);
    Report& report = reports_[task.operation];
    count(report);
    report.elements += outcome.elements;
    report.worst_ulp = std::max(report.worst_ulp, outcome.worst_ulp);
    report.worst_share = std::max(report.worst_share, outcome.worst_share);
    if (outcome.untested) {
      ++report.untested;
      report.untested_why = options_.subjects[outcome.untested->subject].name + ": " + outcome.untested->what;
    }
    if (!outcome.failure) return;
    ++report.failures;
    const FailedCall failed{task.call,
                            check,
                            options_.subjects[outcome.failure->subject].name,
                            drawn.describe(),
                            outcome.failure->what,
                            drawn.elements()};
    const auto order = [](const FailedCall& f) { return std::tuple(f.elements, f.call, f.check); };
    if (!report.failure || order(failed) < order(*report.failure)) report.failure = failed;
  }

  const Options& options_;
  const std::vector<const OpRow*> rows_;
  std::vector<Task> tasks_;
  std::atomic<size_t> next_{0};
  std::mutex mutex_;  // guards what follows
  std::vector<Report> reports_;
  int64_t done_ = 0;
};

}  // namespace

Result<std::vector<Report>> validate(const Options& options) {
  if (options.subjects.empty()) return invalid_argument("there is no device to validate");
  std::vector<const OpRow*> rows;
  for (const std::string& name : options.operations) {
    SPORKLE_ASSIGN_OR_RETURN(const OpRow* row, find_operation(name));
    rows.push_back(row);
  }
  if (rows.empty())
    for (const OpRow& row : operations()) rows.push_back(&row);

  Run run(options, std::move(rows));
  std::vector<Status> statuses(static_cast<size_t>(std::max(options.workers, 1)));
  {
    std::vector<std::jthread> workers;
    for (Status& status : statuses) workers.emplace_back([&run, &status] { status = run.work(); });
  }
  for (const Status& status : statuses) SPORKLE_RETURN_IF_ERROR(status);
  return run.take_reports();
}

}  // namespace sporkle::validate
