// Any bytes as a results file; one that is accepted is the same after writing and reading it, and compares with itself.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "bench/compare.h"
#include "bench/results_file.h"

using namespace sporkle::bench;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = parse_results({reinterpret_cast<const char*>(data), size}, "fuzz");
  if (!file.ok()) return 0;
  std::string text;
  for (const Session& session : file->sessions) {
    if (session.machine) text += to_json(*session.machine) + "\n";
    for (const Record& record : session.records) text += to_json(record) + "\n";
  }
  const auto again = parse_results(text, "written");
  if (!again.ok() || again->sessions.size() != file->sessions.size()) std::abort();
  for (size_t i = 0; i < file->sessions.size(); ++i)
    if (again->sessions[i].machine != file->sessions[i].machine ||
        again->sessions[i].records != file->sessions[i].records)
      std::abort();
  const auto comparison = compare(*file, *again, {.across_machines = true});
  if (!comparison.ok() || comparison->count(Verdict::slower) + comparison->count(Verdict::faster) > 0) std::abort();
  return 0;
}
