// One measurement as `sporkle bench --json` prints it and bench/results/*.jsonl keeps it: one JSON object a line.
//
// Plain values, used by one thread at a time.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/status.h"

namespace sporkle::bench {

struct Record {
  std::string name;      // of the case: "gemm"
  std::string shape;     // as --shape takes it: "1024x1024x1024:nt"
  std::string dtype;     // "f32"
  std::string numerics;  // "strict"
  std::string device;    // as --device takes it: "cpu"
  int64_t threads = 1;

  double value = 0;    // in `unit`, from `seconds`
  std::string unit;    // "GFLOP/s", "GB/s", "us" ...; see smaller_is_better
  double seconds = 0;  // of one run: the median over the rounds
  double flops = 0;    // of one run; 0 where the case counts none
  double bytes = 0;    // of one run: what it must read and write at least
  // Half of the interquartile range of the rounds' values over their median.
  std::optional<double> noise;
  // Of what min(peak rate of arithmetic, bandwidth x flops / bytes) allows, both measured in the same process.
  std::optional<double> percent_of_peak;

  std::string rival;          // "OpenBLAS"; empty: the case has none, or none was asked for
  std::string rival_version;  // also the kernel it chose; or "not found: ..." with what to install
  std::optional<double> rival_value;
  // How many times as fast as the rival we are: per round, ours and the rival's side by side. The median and extremes.
  std::optional<double> ratio, ratio_min, ratio_max;
  // Half of the interquartile range of the rounds' ratios over their median.
  std::optional<double> ratio_noise;

  // Largest error of an element against float64, over the largest element of the output; every element was compared.
  std::optional<double> max_rel_error, rival_max_rel_error;
  int64_t rounds = 0;

  bool operator==(const Record&) const = default;
};

// True for units of time ("s", "ms", "us"), false for rates ("GB/s").
bool smaller_is_better(std::string_view unit);

// One line without its end. Numbers that are not there are null.
std::string to_json(const Record& record);

// Reads what to_json wrote. Fields that name a row (name, shape, dtype, numerics, device, threads) and its value and
// unit must be there; others may lack or be null. corrupt_data names the field, what it holds and what it should hold.
// Fields that it does not know are ignored, so that a newer program's files can be read.
Result<Record> parse_record(std::string_view line);

}  // namespace sporkle::bench
