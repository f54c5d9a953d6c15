// A results file: JSON lines, a machine's line and then what was measured on it, and again a machine's line when the
// program, or its noise, changed in between. Files are named MACHINE-DATE.jsonl.
//
// Plain values; the functions are thread-safe, but for two appending to one file at once.
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "bench/machine.h"
#include "bench/record.h"

namespace sporkle::bench {

// What was measured in one go.
struct Session {
  std::optional<Machine> machine;  // none: lines of `sporkle bench --json` that were kept without one
  std::vector<Record> records;
};

struct ResultsFile {
  std::string name;  // for messages and tables: the file's name without its folder
  std::vector<Session> sessions;
};

// Empty lines are skipped. corrupt_data starts with "NAME:LINE: ", lines counted from 1; a file without any result is
// corrupt, too.
Result<ResultsFile> parse_results(std::string_view text, const std::string& name);
Result<ResultsFile> read_results(const std::filesystem::path& path);
// Every file *.jsonl of a folder, sorted by name; not_found when there is none.
Result<std::vector<ResultsFile>> read_results_folder(const std::filesystem::path& folder);

// Adds to FOLDER/MACHINE-DATE.jsonl, makes both where they lack, and returns the file's path. The machine's line is
// written where the file's last one differs.
Result<std::filesystem::path> append_results(const std::filesystem::path& folder, const Machine& machine,
                                             std::span<const Record> records);

// What that file has already of this machine and program: its noise aside, the machine's line is the same. Empty where
// there is no file.
Result<std::vector<Record>> kept_results(const std::filesystem::path& folder, const Machine& machine);

// What two results must have in common to be the same case: "gemm 1024x1024x1024 f32 strict, cpu, 2 threads, against
// OpenBLAS".
std::string row_name(const Record& record);

// The command that measures the same again.
std::string command_of(const Record& record);

}  // namespace sporkle::bench
