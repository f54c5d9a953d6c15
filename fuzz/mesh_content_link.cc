// Links to content from anywhere: what they name is what a link made of it names.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "mesh/content_service.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sporkle::mesh;
  const auto link = RunLink::parse(std::string_view(reinterpret_cast<const char*>(data), size));
  if (!link.ok()) return 0;
  const auto root = content_in_link(*link);
  if (!root) return 0;
  const auto again = RunLink::parse(content_link(link->coordinator, link->addresses, *root).to_string());
  if (!again.ok() || content_in_link(*again) != root) std::abort();
  return 0;
}
