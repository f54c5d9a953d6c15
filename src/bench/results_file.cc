#include "bench/results_file.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/file.h"

namespace sporkle::bench {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

bool is_machine_line(std::string_view line) {
  const Json object = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  return object.is_object() && object.contains("name") && object["name"] == "machine";
}

bool is_blank(std::string_view line) { return line.find_first_not_of(" \t\r") == std::string_view::npos; }

fs::path path_of(const fs::path& folder, const Machine& machine) {
  return folder / (machine.machine + "-" + machine.date + ".jsonl");
}

}  // namespace

Result<ResultsFile> parse_results(std::string_view text, const std::string& name) {
  ResultsFile file;
  file.name = name;
  size_t results = 0;
  for (int number = 1; !text.empty(); ++number) {
    const size_t end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (is_blank(line)) continue;
    const std::string where = name + ":" + std::to_string(number);
    if (is_machine_line(line)) {
      Result<Machine> machine = parse_machine(line);
      if (!machine.ok()) return machine.status().with_context(where);
      file.sessions.push_back({*std::move(machine), {}});
      continue;
    }
    Result<Record> record = parse_record(line);
    if (!record.ok()) return record.status().with_context(where);
    if (!(record->value > 0))
      return corrupt_data(where + ": the result's value is " + std::to_string(record->value) +
                          "; a measured rate or time is greater than 0");
    if (file.sessions.empty()) file.sessions.emplace_back();
    file.sessions.back().records.push_back(*std::move(record));
    ++results;
  }
  if (results == 0)
    return corrupt_data(name + ":1: no result in it; `sporkle bench all --json` prints results, one a line");
  return file;
}

Result<ResultsFile> read_results(const fs::path& path) {
  SPORKLE_ASSIGN_OR_RETURN(const std::string text, read_file(path));
  return parse_results(text, path.filename().string());
}

Result<std::vector<ResultsFile>> read_results_folder(const fs::path& folder) {
  std::error_code error;
  std::vector<fs::path> paths;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error))
    if (entry->path().extension() == ".jsonl") paths.push_back(entry->path());
  if (error) return errno_status(error.value(), "cannot read the folder " + folder.string());
  if (paths.empty())
    return not_found("no results in " + folder.string() + ": it holds no file *.jsonl; `sporkle bench all --save " +
                     folder.string() + "` makes one");
  std::ranges::sort(paths);
  std::vector<ResultsFile> files;
  for (const fs::path& path : paths) {
    SPORKLE_ASSIGN_OR_RETURN(ResultsFile file, read_results(path));
    files.push_back(std::move(file));
  }
  return files;
}

Result<fs::path> append_results(const fs::path& folder, const Machine& machine, std::span<const Record> records) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) return errno_status(error.value(), "cannot make the folder " + folder.string());
  const fs::path path = path_of(folder, machine);
  std::string text;
  bool same_machine = false;
  if (fs::exists(path, error)) {
    SPORKLE_ASSIGN_OR_RETURN(text, read_file(path));
    SPORKLE_ASSIGN_OR_RETURN(const ResultsFile file, parse_results(text, path.filename().string()));
    same_machine = file.sessions.back().machine == machine;
    if (!text.ends_with('\n')) text += '\n';
  }
  if (!same_machine) text += to_json(machine) + "\n";
  for (const Record& record : records) text += to_json(record) + "\n";
  SPORKLE_RETURN_IF_ERROR(write_file_atomically(path, text));
  return path;
}

Result<std::vector<Record>> kept_results(const fs::path& folder, const Machine& machine) {
  std::vector<Record> kept;
  const fs::path path = path_of(folder, machine);
  if (std::error_code error; !fs::exists(path, error)) return kept;
  SPORKLE_ASSIGN_OR_RETURN(const ResultsFile file, read_results(path));
  for (const Session& session : file.sessions) {
    if (!session.machine) continue;
    Machine measured_on = *session.machine;
    measured_on.noise = machine.noise;
    if (measured_on == machine) kept.insert(kept.end(), session.records.begin(), session.records.end());
  }
  return kept;
}

std::string row_name(const Record& r) {
  std::string name = r.name + " " + r.shape + " " + r.dtype + " " + r.numerics + ", " + r.device + ", " +
                     std::to_string(r.threads) + (r.threads == 1 ? " thread" : " threads");
  if (!r.rival.empty()) name += ", against " + r.rival;
  return name;
}

std::string command_of(const Record& r) {
  // Anything that is not plain goes between quotes: a results file may come from somebody else.
  const auto word = [](const std::string& text) {
    const bool plain = !text.empty() && std::ranges::all_of(text, [](unsigned char c) {
      return std::isalnum(c) || c == '-' || c == '_' || c == ':' || c == '.' || c == ',' || c == '+' || c == '/';
    });
    if (plain) return text;
    std::string quoted = "'";
    for (const char c : text) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
    return quoted + "'";
  };
  std::string command = "sporkle bench " + word(r.name) + " --shape " + word(r.shape) + " --dtype " + word(r.dtype) +
                        " --numerics " + word(r.numerics) + " --device " + word(r.device) + " --threads " +
                        std::to_string(r.threads);
  if (!r.rival.empty()) command += " --against " + word(r.rival);
  if (r.rounds > 0) command += " --rounds " + std::to_string(r.rounds);
  return command;
}

}  // namespace sporkle::bench
