// Any bytes as a tuning database; one that is accepted reads back from its own text to the same text.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "tune/database.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto database = sporkle::tune::Database::parse(text);
  if (!database.ok()) return 0;
  const std::string once = database->text();
  const auto again = sporkle::tune::Database::parse(once);
  if (!again.ok() || again->text() != once) std::abort();
  return 0;
}
