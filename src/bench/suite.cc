#include "bench/suite.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>

#include "bench/cases.h"
#include "bench/machine.h"
#include "bench/peak.h"
#include "bench/statistics.h"
#include "hal/host/system.h"
#include "ir/node.h"

namespace sporkle::bench {
namespace {

// What one group of rows may hold.
constexpr size_t kMostRows = 24;
constexpr int kMostArrays = 400;  // in memory that a rival shares: each is an open file
constexpr double kMemoryPart = 0.5;
constexpr double kPythonBytes = 0x1p29;  // of a rival's process, beside what the case counts
// Of a row's progress: what preparing it takes.
constexpr double kPreparing = 0.4;

struct Row {
  const CaseKind* kind;
  Setting setting;
  std::vector<std::string> rivals;
  std::unique_ptr<Case> subject;
  std::vector<Challenger> challengers;
  std::unique_ptr<Measurement> measurement;
  std::optional<Peak> peak;
  Status status;

  std::string name() const {
    return kind->name + " " + setting.shape + " " + std::string(ir::dtype_name(setting.dtype));
  }
  double memory_bytes() const {
    return subject->memory_bytes() + static_cast<double>(std::ranges::count(rivals, "PyTorch")) * kPythonBytes;
  }
  int arrays() const {
    if (challengers.empty()) return 0;
    const Problem& problem = subject->problem();
    const size_t inputs = problem.inputs.empty() ? 0 : problem.inputs[0].size();
    return subject->sets() * static_cast<int>((inputs + problem.outputs.size()) * challengers.size());
  }
  void release() {
    measurement.reset();
    challengers.clear();  // before the case that they look at
    subject.reset();
  }
};

Status plan_rows(const CaseKind& kind, const SuiteOptions& options, std::vector<Row>* rows) {
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<std::string> rivals, choose_rivals(kind, options.against));
  Setting setting;
  setting.device = options.device;
  setting.threads = options.threads;
  setting.numerics = kind.numerics.front();
  if (!options.numerics.empty()) {
    SPORKLE_ASSIGN_OR_RETURN(setting.numerics, parse_numerics(kind, options.numerics));
  }
  std::vector<ir::DType> dtypes;
  for (const std::string& name : options.dtypes) {
    SPORKLE_ASSIGN_OR_RETURN(const ir::DType dtype, parse_dtype(kind, name));
    dtypes.push_back(dtype);
  }
  if (dtypes.empty()) dtypes.push_back(kind.dtypes.front());
  for (const ir::DType dtype : dtypes)
    for (const std::string& shape : options.shapes.empty() ? kind.default_shapes : options.shapes) {
      setting.dtype = dtype;
      setting.shape = shape;
      if (options.skip && options.skip(kind, setting)) continue;
      Row row{&kind, setting, rivals, {}, {}, {}, {}, {}};
      Result<std::unique_ptr<Case>> made = kind.make(setting);
      if (!made.ok()) {
        if (!options.shapes.empty()) return made.status();
        // A default that this machine is too small for is nobody's mistake.
        if (options.on_notice) options.on_notice(row.name() + " is left out: " + made.status().message());
        continue;
      }
      row.subject = *std::move(made);
      rows->push_back(std::move(row));
    }
  return {};
}

// One product, timed now and then.
class NoiseProbe {
 public:
  static Result<std::unique_ptr<NoiseProbe>> create(const std::string& device, int threads) {
    constexpr double kSample_s = 0.02;
    SPORKLE_ASSIGN_OR_RETURN(const CaseKind* kind, find_case("gemm"));
    Setting setting;
    setting.shape = "256x256x256";
    setting.device = device;
    setting.threads = threads;
    SPORKLE_ASSIGN_OR_RETURN(std::unique_ptr<Case> subject, kind->make(setting));
    SPORKLE_RETURN_IF_ERROR(subject->prepare());
    SPORKLE_ASSIGN_OR_RETURN(const Sample pass, subject->run(subject->sets()));
    const double passes = std::clamp(std::ceil(kSample_s / std::max(pass.wall_seconds, 1e-6)), 1.0, 1e4);
    return std::unique_ptr<NoiseProbe>(new NoiseProbe(std::move(subject), static_cast<int>(passes)));
  }
  Result<double> sample() {
    SPORKLE_RETURN_IF_ERROR(subject_->run(subject_->sets()).status());
    SPORKLE_ASSIGN_OR_RETURN(const Sample timed, subject_->run(passes_ * subject_->sets()));
    seconds_.push_back(timed.wall_seconds);
    return timed.wall_seconds;
  }
  Result<double> noise() {
    SPORKLE_RETURN_IF_ERROR(subject_->check().status());
    return relative_noise(seconds_);
  }

 private:
  NoiseProbe(std::unique_ptr<Case> subject, int passes) : subject_(std::move(subject)), passes_(passes) {}
  std::unique_ptr<Case> subject_;
  int passes_;
  std::vector<double> seconds_;
};

class Suite {
 public:
  Suite(const SuiteOptions& options, std::vector<Row> rows) : options_(options), rows_(std::move(rows)) {}

  Status run() {
    for (size_t first = 0; first < rows_.size();) {
      SPORKLE_ASSIGN_OR_RETURN(const size_t end, run_group(first));
      first = end;
    }
    if (failed_.empty()) return {};
    return failed_.size() == 1
               ? failed_[0]
               : internal_error(std::to_string(failed_.size()) + " rows failed; the first: " + failed_[0].message());
  }

 private:
  // Measures rows from `first` on, as many as fit; returns the one behind them.
  Result<size_t> run_group(size_t first) {
    const double usable = kMemoryPart * static_cast<double>(hal::usable_memory_bytes());
    double bytes = 0;
    int arrays = 0;
    size_t end = first;
    for (; end < rows_.size() && end - first < kMostRows; ++end) {
      Row& row = rows_[end];
      bytes += row.memory_bytes();
      if (end > first && (bytes > usable || arrays > kMostArrays)) break;
      progress(static_cast<double>(end), row.name());
      row.status = prepare(row);
      if (!row.status.ok()) fail(row);
      if (row.subject) arrays += row.arrays();
    }
    const std::span<Row> group = std::span(rows_).subspan(first, end - first);
    const double prepared = static_cast<double>(first) + kPreparing * static_cast<double>(group.size());
    const double part = (1 - kPreparing) / options_.rounds;
    std::unique_ptr<NoiseProbe> probe;
    if (options_.on_group) {
      SPORKLE_ASSIGN_OR_RETURN(probe, NoiseProbe::create(options_.device, options_.threads));
    }
    for (int round = 0; round < options_.rounds; ++round) {
      if (probe) SPORKLE_RETURN_IF_ERROR(probe->sample().status());
      for (size_t i = 0; i < group.size(); ++i) {
        Row& row = group[i];
        progress(prepared + part * static_cast<double>(round * static_cast<int>(group.size()) + static_cast<int>(i)),
                 row.name());
        if (!row.measurement) continue;
        row.status = row.measurement->round();
        if (!row.status.ok()) fail(row);
      }
    }
    bool any = false;
    for (Row& row : group) {
      if (!row.measurement) continue;
      const Result<std::vector<Record>> records = row.measurement->records(row.peak ? &*row.peak : nullptr);
      row.status = records.status();
      if (!records.ok()) {
        fail(row);
        continue;
      }
      for (const Record& record : *records)
        if (options_.on_record) options_.on_record(record);
      any = true;
      row.release();
    }
    progress(static_cast<double>(end), "");
    if (probe && any) {
      SPORKLE_ASSIGN_OR_RETURN(const double noise, probe->noise());
      SPORKLE_RETURN_IF_ERROR(options_.on_group(noise));
    }
    return end;
  }

  Status prepare(Row& row) {
    if (row.subject->has_roofline()) {
      SPORKLE_ASSIGN_OR_RETURN(row.peak, peak_of(row.setting));
    }
    SPORKLE_RETURN_IF_ERROR(row.subject->prepare().with_context(row.name()));
    for (const std::string& name : row.rivals) {
      Challenger challenger = open_challenger(name, *row.subject, row.setting, options_.programs);
      if (!challenger.rival.ok()) notice_once(name + ": " + challenger.rival.status().message());
      row.challengers.push_back(std::move(challenger));
    }
    MeasureOptions measuring;
    measuring.rounds = options_.rounds;
    row.measurement = std::make_unique<Measurement>(*row.kind, row.setting, *row.subject, row.challengers, measuring);
    return row.measurement->calibrate();
  }

  void fail(Row& row) {
    if (rows_.size() > 1) notice_once(row.status.message());
    failed_.push_back(row.status);
    row.release();
  }

  void notice_once(const std::string& text) {
    if (std::ranges::find(noticed_, text) != noticed_.end()) return;
    noticed_.push_back(text);
    if (options_.on_notice) options_.on_notice(text);
  }

  void progress(double rows_done, const std::string& what) {
    if (options_.on_progress) options_.on_progress(rows_done / static_cast<double>(rows_.size()), what);
  }

  const SuiteOptions& options_;
  std::vector<Row> rows_;
  std::vector<std::string> noticed_;
  std::vector<Status> failed_;
};

}  // namespace

Status run_cases(std::span<const CaseKind> kinds, const SuiteOptions& options) {
  if (options.rounds < kLeastRounds)
    return invalid_argument("asked for " + std::to_string(options.rounds) +
                            " rounds; a median of ratios takes at least " + std::to_string(kLeastRounds));
  std::vector<Row> rows;
  for (const CaseKind& kind : kinds) SPORKLE_RETURN_IF_ERROR(plan_rows(kind, options, &rows));
  SPORKLE_RETURN_IF_ERROR(hal::open_device(options.device, {.threads = options.threads}).status());
  return Suite(options, std::move(rows)).run();
}

Result<double> noise_of_device(const std::string& device, int threads) {
  constexpr int kSamples = 21;
  SPORKLE_ASSIGN_OR_RETURN(const std::unique_ptr<NoiseProbe> probe, NoiseProbe::create(device, threads));
  for (int i = 0; i < kSamples; ++i) SPORKLE_RETURN_IF_ERROR(probe->sample().status());
  return probe->noise();
}

}  // namespace sporkle::bench
