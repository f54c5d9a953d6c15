// The method: how a case and its rivals are timed and checked. See docs/benchmarks.md.
//
//   for each round, for us and then for each rival:
//     run once over every input set, untimed: whoever ran before had the caches
//     poison the outputs; time `repetitions` runs; check every element of the outputs
//   a round's ratio is taken within the round; the median of the rounds counts
//
// Where several cases are measured, a round is made of all of them before the next begins (suite.h), so that the rounds
// of a case lie as far apart as the whole takes, and their spread is that of minutes.
//
// Measurements belong to one thread, and want the machine for themselves.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "bench/case.h"
#include "bench/record.h"

namespace sporkle::bench {

inline constexpr int kLeastRounds = 7;

// What the machine can do at most, measured (peak.h): the roofline of Williams, Waterman and Patterson, CACM 52(4),
// 2009.
struct Peak {
  double flops_per_second = 0;
  double bytes_per_second = 0;
  // The least time that so much work takes.
  double seconds(double flops, double bytes) const {
    return std::max(flops / flops_per_second, bytes / bytes_per_second);
  }
};

struct MeasureOptions {
  int rounds = 9;
  double sample_seconds = 0.02;  // a sample repeats its runs for at least about so long
};

// A rival, or why there is none.
struct Challenger {
  std::string name;
  Result<std::unique_ptr<Rival>> rival;
};

// One case being measured. Everything given outlives it; `subject` is prepared. Each call fails with internal when an
// output is wrong, ours or a rival's.
class Measurement {
 public:
  Measurement(const CaseKind& kind, const Setting& setting, Case& subject, std::vector<Challenger>& challengers,
              const MeasureOptions& options);
  ~Measurement();
  // Checks a first run of ours and of each rival, and finds out how many runs make a sample. Called once, first.
  Status calibrate();
  Status round();
  // Of all rounds: one record for each challenger, or one without a rival. `peak` may be null. internal when wall time
  // and the device's clock disagree by more than the noise.
  Result<std::vector<Record>> records(const Peak* peak) const;

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

// The records of options.rounds rounds of one case; invalid_argument when these are too few.
Result<std::vector<Record>> measure(const CaseKind& kind, const Setting& setting, Case& subject,
                                    std::vector<Challenger>& challengers, const Peak* peak,
                                    const MeasureOptions& options);

// Whether a sample's clocks agree: the device is not busy for longer than the wall clock says, and what it was not busy
// for is the host's planning, up to `tolerance` of the wall time, 100 microseconds, and 40 for each wait but the first.
// internal otherwise.
Status check_clocks(const Sample& sample, double tolerance);

}  // namespace sporkle::bench
