// Any text is a list of known runs or an error; what was read is written and read again the same.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "mesh/known_runs.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using sporkle::mesh::KnownRuns;
  const auto known = KnownRuns::parse({reinterpret_cast<const char*>(data), size});
  if (!known.ok()) return 0;
  const std::string text = known->text();
  const auto again = KnownRuns::parse(text);
  if (!again.ok() || again->text() != text) std::abort();
  for (const auto& run : known->runs()) {
    const auto record = run.verified();
    if (record && record->coordinator() != run.coordinator) std::abort();
  }
  return 0;
}
