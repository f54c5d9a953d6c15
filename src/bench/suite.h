// Runs cases over their shapes and types, as `sporkle bench NAME` and `sporkle bench all` do.
//
// Rows (a case at one shape and type) are measured together, as many as fit half of the memory: first all are prepared,
// then a round is made of each in turn, then the next round. So each row's rounds are spread over the minutes that the
// whole takes, and what a shared machine does in these minutes is in the noise that the row reports.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bench/case.h"
#include "bench/measure.h"
#include "bench/record.h"
#include "bench/rivals.h"

namespace sporkle::bench {

struct SuiteOptions {
  std::vector<std::string> shapes;   // none: the case's defaults
  std::vector<std::string> dtypes;   // none: the case's default
  std::vector<std::string> against;  // none: the case's default rivals; {"none"}: no rival
  std::string numerics;              // empty: the case's default
  std::string device = "cpu";
  int threads = 1;
  int rounds = 9;
  RivalPrograms programs;
  // Rows that need not be measured; empty: all do.
  std::function<bool(const CaseKind& kind, const Setting& setting)> skip;

  // The rows of a group, at its end, in the order of the plan.
  std::function<void(const Record&)> on_record;
  // After them: the machine's noise (Machine::noise), of one product that was run in every round of the group. Empty:
  // it is not measured. An error ends the run.
  std::function<Status(double noise)> on_group;
  // A line for people, at once: a rival that is not there, a row that fails while others go on.
  std::function<void(const std::string&)> on_notice;
  // The part that is done of everything asked for, 0 to 1, and what is being done.
  std::function<void(double done, const std::string& what)> on_progress;
};

// Everything is checked before anything is measured: not_found, invalid_argument or unsupported then; a case's default
// shape that needs more memory than there is is left out with a notice. A row that fails its checks hands out no
// record; the others go on, and its error is returned at the end.
Status run_cases(std::span<const CaseKind> kinds, const SuiteOptions& options);

// How far the times of one product lie apart that is run over and over for about half a second (Machine::noise).
Result<double> noise_of_device(const std::string& device, int threads);

}  // namespace sporkle::bench
