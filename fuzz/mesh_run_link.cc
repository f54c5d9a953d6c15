// Any text is a run link or an error; a link survives being written and read again.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "mesh/run_link.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto link = sporkle::mesh::RunLink::parse({reinterpret_cast<const char*>(data), size});
  if (!link.ok()) return 0;
  const std::string text = link.value().to_string();
  // Percent-encoding may take a link past the limit on length; every other one must come back the same.
  if (text.size() > sporkle::mesh::RunLink::max_length) return 0;
  const auto again = sporkle::mesh::RunLink::parse(text);
  if (!again.ok() || !(again.value() == link.value())) std::abort();
  return 0;
}
