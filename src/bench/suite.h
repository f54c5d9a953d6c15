// Runs one kind of case over its shapes and types, as `sporkle bench NAME` does.
#pragma once

#include <functional>
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

  std::function<void(const Record&)> on_record;
  // A line for people, at once: a rival that is not there.
  std::function<void(const std::string&)> on_notice;
  // The part that is done of everything asked for, 0 to 1, and what is being done.
  std::function<void(double done, const std::string& what)> on_progress;
};

// Everything is checked before anything is measured: not_found, invalid_argument or unsupported then. A measurement
// that fails its checks ends the run with internal; its records are not handed out.
Status run_case(const CaseKind& kind, const SuiteOptions& options);

// How far the times of one product lie apart that is run over and over for about half a second (Machine::noise).
Result<double> noise_of_device(const std::string& device, int threads);

}  // namespace sporkle::bench
