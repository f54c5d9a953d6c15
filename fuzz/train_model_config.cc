// Any bytes as a checkpoint's config.json; one that is accepted is the same after writing and reading it.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string_view>

#include "train/checkpoint_json.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto shape = sporkle::train::model_config_from_json({reinterpret_cast<const char*>(data), size}, "fuzz");
  if (!shape.ok()) return 0;
  const std::string written = sporkle::train::model_config_to_json(*shape, std::nullopt);
  const auto again = sporkle::train::model_config_from_json(written, "written");
  if (!again.ok() || *again != *shape) std::abort();
  return 0;
}
