// The method: how a case and its rivals are timed and checked. See docs/benchmarks.md.
//
//   for each round, for us and then for each rival:
//     run once over every input set, untimed: whoever ran before had the caches
//     poison the outputs; time `repetitions` runs; check every element of the outputs
//   a round's ratio is taken within the round; the median of the rounds counts
//
// Measurements belong to one thread, and want the machine for themselves.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "bench/case.h"
#include "bench/record.h"

namespace sporkle::bench {

inline constexpr int kLeastRounds = 7;

// What the machine can do at most, measured (peak.h).
struct Peak {
  double flops_per_second = 0;
  double bytes_per_second = 0;
};

struct MeasureOptions {
  int rounds = 9;
  double sample_seconds = 0.02;  // a sample repeats its runs for at least about so long
  // Called after every step with the part that is done, 0 to 1.
  std::function<void(double done)> progress;
};

// A rival, or why there is none.
struct Challenger {
  std::string name;
  Result<std::unique_ptr<Rival>> rival;
};

// One record for each challenger, or one without a rival. `subject` is prepared; `peak` may be null. internal when an
// output is wrong, ours or a rival's, or when wall time and the device's clock disagree by more than the noise.
Result<std::vector<Record>> measure(const CaseKind& kind, const Setting& setting, Case& subject,
                                    std::vector<Challenger>& challengers, const Peak* peak,
                                    const MeasureOptions& options);

// Whether a sample's clocks agree: the device is not busy for longer than the wall clock says, and what it was not busy
// for is the host's planning, up to `tolerance` of the wall time and a fixed 100 microseconds. internal otherwise.
Status check_clocks(const Sample& sample, double tolerance);

}  // namespace sporkle::bench
