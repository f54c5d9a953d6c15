#include "bench/suite.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>

#include "bench/cases.h"
#include "bench/machine.h"
#include "bench/peak.h"
#include "ir/node.h"

namespace sporkle::bench {
namespace {

struct Job {
  Setting setting;
  std::unique_ptr<Case> subject;
};

Result<std::vector<Job>> plan_jobs(const CaseKind& kind, const SuiteOptions& options) {
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
  std::vector<Job> jobs;
  for (const ir::DType dtype : dtypes)
    for (const std::string& shape : options.shapes.empty() ? kind.default_shapes : options.shapes) {
      setting.dtype = dtype;
      setting.shape = shape;
      Job& job = jobs.emplace_back(Job{setting, nullptr});
      SPORKLE_ASSIGN_OR_RETURN(job.subject, kind.make(setting));
    }
  return jobs;
}

}  // namespace

Status run_case(const CaseKind& kind, const SuiteOptions& options) {
  if (options.rounds < kLeastRounds)
    return invalid_argument("asked for " + std::to_string(options.rounds) +
                            " rounds; a median of ratios takes at least " + std::to_string(kLeastRounds));
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<std::string> rivals, choose_rivals(kind, options.against));
  SPORKLE_ASSIGN_OR_RETURN(std::vector<Job> jobs, plan_jobs(kind, options));
  SPORKLE_RETURN_IF_ERROR(hal::open_device(options.device, {.threads = options.threads}).status());

  std::vector<std::string> noticed;
  for (size_t i = 0; i < jobs.size(); ++i) {
    Job& job = jobs[i];
    const std::string what = kind.name + " " + job.setting.shape + " " + std::string(ir::dtype_name(job.setting.dtype));
    const auto progress = [&](double done) {
      if (options.on_progress)
        options.on_progress((static_cast<double>(i) + done) / static_cast<double>(jobs.size()), what);
    };
    progress(0);
    std::optional<Peak> peak;
    if (job.subject->has_roofline()) {
      SPORKLE_ASSIGN_OR_RETURN(peak, peak_of(job.setting));
    }
    SPORKLE_RETURN_IF_ERROR(job.subject->prepare().with_context(what));
    std::vector<Challenger> challengers;
    for (const std::string& name : rivals) {
      Challenger challenger = open_challenger(name, *job.subject, job.setting, options.programs);
      const std::string notice = name + ": " + challenger.rival.status().message();
      if (!challenger.rival.ok() && std::ranges::find(noticed, notice) == noticed.end()) {
        noticed.push_back(notice);
        if (options.on_notice) options.on_notice(notice);
      }
      challengers.push_back(std::move(challenger));
    }
    MeasureOptions measuring;
    measuring.rounds = options.rounds;
    measuring.progress = [&](double done) { progress(done); };
    SPORKLE_ASSIGN_OR_RETURN(const std::vector<Record> records,
                             measure(kind, job.setting, *job.subject, challengers, peak ? &*peak : nullptr, measuring));
    for (const Record& record : records)
      if (options.on_record) options.on_record(record);
    challengers.clear();  // before the case that they look at
    job.subject.reset();
  }
  return {};
}

Result<double> noise_of_device(const std::string& device, int threads) {
  constexpr int kSamples = 21;
  constexpr double kSample_s = 0.02;
  SPORKLE_ASSIGN_OR_RETURN(const CaseKind* kind, find_case("gemm"));
  Setting setting;
  setting.shape = "256x256x256";
  setting.device = device;
  setting.threads = threads;
  SPORKLE_ASSIGN_OR_RETURN(const std::unique_ptr<Case> subject, kind->make(setting));
  SPORKLE_RETURN_IF_ERROR(subject->prepare());
  SPORKLE_ASSIGN_OR_RETURN(const Sample pass, subject->run(subject->sets()));
  const int passes = static_cast<int>(std::clamp(std::ceil(kSample_s / std::max(pass.wall_seconds, 1e-6)), 1.0, 1e4));
  const auto timed_run = [&]() -> Result<double> {
    SPORKLE_ASSIGN_OR_RETURN(const Sample sample, subject->run(passes * subject->sets()));
    return sample.wall_seconds;
  };
  SPORKLE_ASSIGN_OR_RETURN(const double noise, measure_noise(timed_run, kSamples));
  SPORKLE_RETURN_IF_ERROR(subject->check().status());
  return noise;
}

}  // namespace sporkle::bench
