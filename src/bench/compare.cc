#include "bench/compare.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

namespace sporkle::bench {
namespace {

constexpr double kStandardErrors = 3;

struct Row {
  Record record;
  std::optional<double> machine_noise;
};

struct Rows {
  std::map<std::string, Row> by_name;
  std::vector<std::string> order;
};

Rows rows_of(const ResultsFile& file) {
  Rows rows;
  for (const Session& session : file.sessions) {
    for (const Record& record : session.records) {
      const std::string name = row_name(record);
      if (!rows.by_name.contains(name)) rows.order.push_back(name);
      rows.by_name[name] = {record, session.machine ? session.machine->noise : std::nullopt};
    }
  }
  return rows;
}

// Of the median that the row gives, relative to it. Of normally distributed values the half interquartile range is
// 0.6745 standard deviations, and the standard error of a median 1.2533 of them over the root of how many values.
double standard_error(const Row& row, bool of_ratio) {
  const double noise = of_ratio ? row.record.ratio_noise.value_or(0)
                                : std::max(row.record.noise.value_or(0), row.machine_noise.value_or(0));
  return noise / 0.6745 * 1.2533 / std::sqrt(std::max(static_cast<double>(row.record.rounds), 1.0));
}

// Whether both have ratios whose spread is known, to the same rival.
bool have_ratios(const Record& a, const Record& b) {
  return a.ratio && b.ratio && *a.ratio > 0 && *b.ratio > 0 && a.ratio_noise && b.ratio_noise &&
         a.rival_version == b.rival_version;
}

// A row that became 1.15 times as fast and one that takes 1.15 times as long changed by the same amount.
double speedup_of(double slowdown) { return 1 / (1 + slowdown) - 1; }

// Every machine of a file, described for a message.
std::string machines_text(const ResultsFile& file) {
  std::set<std::string> names;
  for (const Session& session : file.sessions) {
    const auto& m = session.machine;
    names.insert(m ? m->machine + " (" + m->cpu + ", " + std::to_string(m->cores) + " cores)" : "an unknown machine");
  }
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : " and ") + name;
  return text;
}

Status check_machines(const ResultsFile& old_file, const ResultsFile& new_file, bool across_machines,
                      std::vector<std::string>* warnings) {
  const Machine* known = nullptr;
  bool differ = false, unknown = false;
  for (const ResultsFile* file : {&old_file, &new_file}) {
    for (const Session& session : file->sessions) {
      if (!session.machine) {
        unknown = true;
      } else {
        differ |= known && !known->same_hardware(*session.machine);
        known = &*session.machine;
      }
    }
  }
  if (differ) {
    const std::string found = old_file.name + " was measured on " + machines_text(old_file) + ", and " + new_file.name +
                              " on " + machines_text(new_file);
    if (!across_machines)
      return invalid_argument(found +
                              ": times of different machines say nothing about a change of the program; "
                              "--across-machines compares them all the same");
    warnings->push_back(found);
  }
  if (unknown)
    warnings->push_back(
        "there are results without a machine's line, so whether both are of the same machine is not "
        "known; `sporkle bench --save` writes that line");
  return {};
}

}  // namespace

size_t Comparison::count(Verdict verdict) const {
  return static_cast<size_t>(std::ranges::count(changes, verdict, &Change::verdict));
}

Result<Comparison> compare(const ResultsFile& old_file, const ResultsFile& new_file, const CompareOptions& options) {
  if (!(options.threshold > 0 && options.threshold <= 10))
    return invalid_argument("the threshold is " + std::to_string(options.threshold) +
                            "; it must be a fraction greater than 0 and at most 10, such as 0.05 for 5 %");
  Comparison result;
  SPORKLE_RETURN_IF_ERROR(check_machines(old_file, new_file, options.across_machines, &result.warnings));
  const Rows old_rows = rows_of(old_file), new_rows = rows_of(new_file);
  for (const std::string& name : new_rows.order) {
    const Row& new_row = new_rows.by_name.at(name);
    const auto found = old_rows.by_name.find(name);
    if (found == old_rows.by_name.end()) {
      result.added.push_back(new_row.record);
      continue;
    }
    const Row& old_row = found->second;
    Change change{old_row.record, new_row.record};
    if (change.old_record.unit != change.new_record.unit)
      return invalid_argument(name + " is in " + change.old_record.unit + " in " + old_file.name + " and in " +
                              change.new_record.unit + " in " + new_file.name + "; measure it again with one program");
    const double times = change.new_record.value / change.old_record.value;
    const double own = (smaller_is_better(change.new_record.unit) ? times : 1 / times) - 1;
    change.by_ratio = have_ratios(old_row.record, new_row.record);
    change.slowdown = change.by_ratio ? *old_row.record.ratio / *new_row.record.ratio - 1 : own;
    change.margin = std::max(options.threshold, kStandardErrors * std::hypot(standard_error(old_row, change.by_ratio),
                                                                             standard_error(new_row, change.by_ratio)));
    const double least_own = change.by_ratio ? options.threshold / 2 : 0;
    if (change.slowdown > change.margin && own > least_own)
      change.verdict = Verdict::slower;
    else if (speedup_of(change.slowdown) > change.margin && speedup_of(own) > least_own)
      change.verdict = Verdict::faster;
    result.changes.push_back(std::move(change));
  }
  for (const std::string& name : old_rows.order)
    if (!new_rows.by_name.contains(name)) result.missing.push_back(old_rows.by_name.at(name).record);
  if (result.changes.empty())
    return invalid_argument(old_file.name + " and " + new_file.name +
                            " have no row in common: rows match by name, shape, dtype, numerics, device, threads and "
                            "rival");
  return result;
}

}  // namespace sporkle::bench
