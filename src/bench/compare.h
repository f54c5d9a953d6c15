// Two sets of results side by side: what became slower or faster beyond the noise that both sides measured.
//
// The rule. Rows match by name, shape, dtype, numerics, device, threads and rival; where a file has one twice, its last
// counts. Where both sides measured the rival, of the same version, a row's slowdown is by how much it fell behind the
// rival: the old ratio over the new one, minus 1. Ours and the rival's rounds lie side by side, so a machine that is
// slower today cancels out. Elsewhere it is the new time over the old time, minus 1 (rates are turned into times
// first). From a side's noise (of the ratios; of the times the larger of the row's own and the machine's) and the
// number of rounds follows the standard error of its median. A row is slower, or faster, when it changed by more than
//
//     margin = max(threshold, 3 x sqrt(old standard error^2 + new standard error^2)),
//
// three standard errors so that a few hundred rows of an unchanged program rarely raise an alarm. A row without
// noise on either side is judged by the threshold alone. And where ratios are compared our own time must have changed,
// too, in the same direction and by half of the threshold: else it was the rival that changed.
//
// Plain values; the functions are thread-safe.
#pragma once

#include <string>
#include <vector>

#include "base/status.h"
#include "bench/results_file.h"

namespace sporkle::bench {

struct CompareOptions {
  double threshold = 0.05;  // changes up to this fraction never count
  bool across_machines = false;
};

enum class Verdict { unchanged, slower, faster };

struct Change {
  Record old_record, new_record;
  double slowdown = 0;  // 0.15: takes 15 % more time, where `by_ratio` the rival's time being what it was
  bool by_ratio = false;
  double margin = 0;
  Verdict verdict = Verdict::unchanged;
};

struct Comparison {
  std::vector<Change> changes;  // of every row that both have, in the new file's order
  std::vector<Record> missing;  // in the old file only
  std::vector<Record> added;    // in the new file only
  std::vector<std::string> warnings;

  size_t count(Verdict verdict) const;
};

// invalid_argument when the files have no row in common, when a row's units differ, when the threshold is not in
// (0, 10], or when the machines differ and across_machines does not allow it: then it is a warning.
Result<Comparison> compare(const ResultsFile& old_file, const ResultsFile& new_file, const CompareOptions& options);

}  // namespace sporkle::bench
