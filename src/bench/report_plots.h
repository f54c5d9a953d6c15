// The pictures of a report. Each is SVG (bench/svg.h) in which every result that it shows has exactly one element of
// class "mark". Thread-safe.
#pragma once

#include <string>
#include <vector>

#include "bench/record.h"

namespace sporkle::bench {

// A result as one point of a roofline plot can be drawn when it counts both flops and bytes.
bool has_intensity(const Record& record);

// Attainable GFLOP/s over arithmetic intensity (flops a byte), both logarithmic. Ceilings come from the records'
// percent of peak, of which each measured its own: the highest arithmetic rate and the highest bandwidth that they
// imply. Points are numbered from 1 in the order of `records`, all of which have an intensity; `others` only say where
// the ceilings are (a copy has no intensity, and measures bandwidth best).
std::string roofline_plot(const std::string& title, const std::vector<Record>& records,
                          const std::vector<Record>& others);

// One line a record that has a ratio: the median as a dot, the extremes of the rounds as whiskers, against 1.
std::string ratio_plot(const std::string& title, const std::vector<Record>& records);

struct HistoryPoint {
  std::string when;  // "2026-01-02 0123abc"
  Record record;
};
// The value of one case in one unit, in order of time, with its noise as whiskers.
std::string history_plot(const std::string& title, const std::vector<HistoryPoint>& points);

}  // namespace sporkle::bench
