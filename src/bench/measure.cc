#include "bench/measure.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "bench/statistics.h"
#include "ir/node.h"

namespace sporkle::bench {
namespace {

constexpr double kClockSlack_s = 100e-6;  // of one sample: a submission, a wake-up, the clocks' own steps
constexpr double kWaitSlack_s = 40e-6;    // of each further wait: threads that slept wake up, results are read

// How often to run in a sample, given what one pass over the input sets took.
int repetitions_for(double pass_seconds, int sets, double sample_seconds) {
  const double passes = std::ceil(sample_seconds / std::max(pass_seconds, 1e-9));
  return sets * static_cast<int>(std::clamp(passes, 1.0, 100'000.0));
}

// What the rounds of one contestant gave.
struct Series {
  std::vector<double> seconds;  // of one run
  std::vector<double> values;
  double worst_error = 0;
};

class OurSide {
 public:
  OurSide(Case& subject, double sample_seconds) : case_(subject), sample_seconds_(sample_seconds) {}

  // The first run is checked before anything is timed.
  Status calibrate() {
    SPORKLE_RETURN_IF_ERROR(case_.poison_outputs());
    SPORKLE_RETURN_IF_ERROR(case_.run(case_.sets()).status());
    SPORKLE_RETURN_IF_ERROR(case_.check().status());
    SPORKLE_ASSIGN_OR_RETURN(const Sample warm, case_.run(case_.sets()));
    repetitions_ = repetitions_for(warm.wall_seconds, case_.sets(), sample_seconds_);
    return {};
  }
  Status round() {
    SPORKLE_RETURN_IF_ERROR(case_.run(case_.sets()).status());
    SPORKLE_RETURN_IF_ERROR(case_.poison_outputs());
    SPORKLE_ASSIGN_OR_RETURN(const Sample sample, case_.run(repetitions_));
    SPORKLE_ASSIGN_OR_RETURN(const double error, case_.check());
    const double seconds = sample.wall_seconds / repetitions_;
    series.seconds.push_back(seconds);
    series.values.push_back(case_.value(seconds));
    series.worst_error = std::max(series.worst_error, error);
    samples_.push_back(sample);
    return {};
  }
  // The sample in the middle by what neither host nor device accounts for must have clocks that agree.
  Status check_clocks_of_rounds() const {
    std::vector<Sample> sorted;
    for (const Sample& sample : samples_)
      if (sample.device_seconds) sorted.push_back(sample);
    if (sorted.empty()) return {};
    const auto gap = [](const Sample& s) {
      return (s.wall_seconds - s.host_seconds - *s.device_seconds) / s.wall_seconds;
    };
    std::ranges::sort(sorted, {}, gap);
    return check_clocks(sorted[sorted.size() / 2], std::max(0.05, 2 * relative_noise(series.seconds)));
  }

  Series series;

 private:
  Case& case_;
  double sample_seconds_;
  int repetitions_ = 1;
  std::vector<Sample> samples_;
};

class RivalSide {
 public:
  RivalSide(Rival& rival, Case& judge, double sample_seconds)
      : rival_(rival), judge_(judge), sample_seconds_(sample_seconds) {}

  Status calibrate() {
    rival_.resume();
    SPORKLE_RETURN_IF_ERROR(rival_.poison_outputs());
    SPORKLE_RETURN_IF_ERROR(rival_.run(judge_.sets()).status());
    SPORKLE_RETURN_IF_ERROR(rival_.check(judge_).status());
    SPORKLE_ASSIGN_OR_RETURN(const double warm, rival_.run(judge_.sets()));
    repetitions_ = repetitions_for(warm, judge_.sets(), sample_seconds_);
    rival_.pause();
    return {};
  }
  Status round() {
    rival_.resume();
    SPORKLE_RETURN_IF_ERROR(rival_.run(judge_.sets()).status());
    SPORKLE_RETURN_IF_ERROR(rival_.poison_outputs());
    SPORKLE_ASSIGN_OR_RETURN(const double total, rival_.run(repetitions_));
    SPORKLE_ASSIGN_OR_RETURN(const double error, rival_.check(judge_));
    rival_.pause();
    const double seconds = total / repetitions_;
    series.seconds.push_back(seconds);
    series.values.push_back(rival_.value(seconds));
    series.worst_error = std::max(series.worst_error, error);
    return {};
  }

  Series series;

 private:
  Rival& rival_;
  Case& judge_;
  double sample_seconds_;
  int repetitions_ = 1;
};

Record our_record(const CaseKind& kind, const Setting& setting, const Case& subject, const Series& ours,
                  const Peak* peak) {
  Record record;
  record.name = kind.name;
  record.shape = setting.shape;
  record.dtype = ir::dtype_name(setting.dtype);
  record.numerics = ir::numerics_name(setting.numerics);
  record.device = setting.device;
  record.threads = setting.threads;
  record.value = median(ours.values);
  record.unit = subject.unit();
  record.seconds = median(ours.seconds);
  const Work work = subject.work();
  record.flops = work.flops;
  record.bytes = work.bytes;
  record.noise = relative_noise(ours.values);
  if (peak && subject.has_roofline() && work.flops + work.bytes > 0) {
    record.percent_of_peak = 100 * peak->seconds(work.flops, work.bytes) / record.seconds;
  }
  record.max_rel_error = ours.worst_error;
  record.rounds = static_cast<int64_t>(ours.values.size());
  return record;
}

void add_rival(const Series& ours, const Series& theirs, Record* record) {
  std::vector<double> ratios;
  for (size_t i = 0; i < ours.values.size(); ++i)
    ratios.push_back(smaller_is_better(record->unit) ? theirs.values[i] / ours.values[i]
                                                     : ours.values[i] / theirs.values[i]);
  record->rival_value = median(theirs.values);
  record->ratio = median(ratios);
  record->ratio_min = *std::ranges::min_element(ratios);
  record->ratio_max = *std::ranges::max_element(ratios);
  record->ratio_noise = relative_noise(ratios);
  record->rival_max_rel_error = theirs.worst_error;
}

std::string in_us(double seconds) { return std::to_string(static_cast<int64_t>(std::llround(seconds * 1e6))) + " us"; }

}  // namespace

Status check_clocks(const Sample& sample, double tolerance) {
  if (!sample.device_seconds) return {};
  const double wall = sample.wall_seconds, device = *sample.device_seconds;
  const double slack = tolerance * wall + kClockSlack_s + kWaitSlack_s * (sample.waits - 1);
  const std::string clocks = "the wall clock says " + in_us(wall) + ", the device " + in_us(device) + " and the host " +
                             in_us(sample.host_seconds) + " of planning";
  if (device > wall + slack) return internal_error("clocks disagree: the device was busy for longer: " + clocks);
  if (wall - sample.host_seconds - device > slack)
    return internal_error("clocks disagree: nobody was busy for a part of the time: " + clocks +
                          "; was the machine busy with something else?");
  return {};
}

struct Measurement::Parts {
  const CaseKind& kind;
  const Setting& setting;
  Case& subject;
  std::vector<Challenger>& challengers;
  MeasureOptions options;
  std::string what;
  OurSide ours;
  std::vector<std::optional<RivalSide>> theirs;  // of each challenger
};

Measurement::Measurement(const CaseKind& kind, const Setting& setting, Case& subject,
                         std::vector<Challenger>& challengers, const MeasureOptions& options)
    : parts_(new Parts{kind, setting, subject, challengers, options, kind.name + " " + setting.shape,
                       OurSide(subject, options.sample_seconds),
                       std::vector<std::optional<RivalSide>>(challengers.size())}) {}

Measurement::~Measurement() = default;

Status Measurement::calibrate() {
  Parts& p = *parts_;
  SPORKLE_RETURN_IF_ERROR(p.ours.calibrate().with_context(p.what));
  for (size_t i = 0; i < p.challengers.size(); ++i) {
    if (!p.challengers[i].rival.ok()) continue;
    p.theirs[i].emplace(**p.challengers[i].rival, p.subject, p.options.sample_seconds);
    SPORKLE_RETURN_IF_ERROR(p.theirs[i]->calibrate().with_context(p.what + ", " + p.challengers[i].name));
  }
  return {};
}

Status Measurement::round() {
  Parts& p = *parts_;
  SPORKLE_RETURN_IF_ERROR(p.ours.round().with_context(p.what));
  for (size_t i = 0; i < p.theirs.size(); ++i)
    if (p.theirs[i]) SPORKLE_RETURN_IF_ERROR(p.theirs[i]->round().with_context(p.what + ", " + p.challengers[i].name));
  return {};
}

Result<std::vector<Record>> Measurement::records(const Peak* peak) const {
  const Parts& p = *parts_;
  SPORKLE_RETURN_IF_ERROR(p.ours.check_clocks_of_rounds().with_context(p.what));
  const Record alone = our_record(p.kind, p.setting, p.subject, p.ours.series, peak);
  if (p.challengers.empty()) return std::vector<Record>{alone};
  std::vector<Record> records;
  for (size_t i = 0; i < p.challengers.size(); ++i) {
    Record& record = records.emplace_back(alone);
    record.rival = p.challengers[i].name;
    if (p.theirs[i]) {
      record.rival_version = (*p.challengers[i].rival)->version();
      add_rival(p.ours.series, p.theirs[i]->series, &record);
    } else {
      record.rival_version = p.challengers[i].rival.status().message();
    }
  }
  return records;
}

Result<std::vector<Record>> measure(const CaseKind& kind, const Setting& setting, Case& subject,
                                    std::vector<Challenger>& challengers, const Peak* peak,
                                    const MeasureOptions& options) {
  if (options.rounds < kLeastRounds)
    return invalid_argument(std::to_string(options.rounds) +
                            " rounds are too few for a median of ratios; take at least " +
                            std::to_string(kLeastRounds));
  Measurement measurement(kind, setting, subject, challengers, options);
  SPORKLE_RETURN_IF_ERROR(measurement.calibrate());
  for (int round = 0; round < options.rounds; ++round) SPORKLE_RETURN_IF_ERROR(measurement.round());
  return measurement.records(peak);
}

}  // namespace sporkle::bench
