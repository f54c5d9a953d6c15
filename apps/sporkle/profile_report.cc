#include "apps/sporkle/profile_report.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace sporkle::app {
namespace {

using nlohmann::json;

std::string text_of(const json& object, const char* name) {
  const auto found = object.find(name);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

double number_of(const json& object, const char* name) {
  const auto found = object.find(name);
  return found != object.end() && found->is_number() ? found->get<double>() : 0.0;
}

}  // namespace

Status ProfileReport::add(std::string_view trace, std::vector<std::string>* events) {
  int number = 0;
  while (!trace.empty()) {
    const size_t end = std::min(trace.find('\n'), trace.size());
    std::string_view line = trace.substr(0, end);
    trace.remove_prefix(std::min(end + 1, trace.size()));
    ++number;
    if (line.ends_with(",")) line.remove_suffix(1);
    if (line.empty() || line == "[" || line == "]") continue;
    const json event = json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!event.is_object() || !event.contains("ph")) {
      if (trace.empty()) return {};
      return corrupt_data("line " + std::to_string(number) + " of the trace is no event");
    }
    events->emplace_back(line);
    if (text_of(event, "ph") != "X") continue;
    const std::string category = text_of(event, "cat");
    const double seconds = number_of(event, "dur") * 1e-6;
    if (category == "plan") plan_seconds_ += seconds;
    if (category == "compile") compile_seconds_ += seconds;
    if (category != "launch" || !event.contains("args") || !event["args"].is_object()) continue;
    const json& arguments = event["args"];
    const std::string name = text_of(event, "name"), key = text_of(arguments, "key");
    const std::string source = text_of(arguments, "source"), device = text_of(arguments, "device");
    ProfileRow& row = rows_[{name, key, source, device}];
    row.kernel = name;
    row.key = key;
    row.source = source;
    row.device = device;
    row.structure = text_of(arguments, "structure");
    row.schedule = text_of(arguments, "schedule");
    ++row.calls;
    row.seconds += seconds;
    row.flops += number_of(arguments, "flops");
    row.bytes += number_of(arguments, "read_bytes") + number_of(arguments, "written_bytes");
    row.estimated |= arguments.contains("estimated");
    launch_seconds_ += seconds;
  }
  return {};
}

std::vector<ProfileRow> ProfileReport::rows() const {
  std::vector<ProfileRow> rows;
  for (const auto& [key, row] : rows_) rows.push_back(row);
  std::ranges::stable_sort(rows, [](const ProfileRow& a, const ProfileRow& b) { return a.seconds > b.seconds; });
  return rows;
}

}  // namespace sporkle::app
