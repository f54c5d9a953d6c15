// Any bytes as a configuration; one that is accepted is the same after writing and reading it.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "train/config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto config = sporkle::train::parse_config({reinterpret_cast<const char*>(data), size}, "fuzz");
  if (!config.ok()) return 0;
  const auto again = sporkle::train::parse_config(sporkle::train::config_to_toml(*config), "written");
  if (!again.ok() || *again != *config) std::abort();
  return 0;
}
