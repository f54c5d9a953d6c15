// The reader of kernels on any text: it may refuse, but what it accepts must print and read back as the same text.
#include <cstdint>
#include <cstdlib>

#include "ir/text.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto kernel = sporkle::ir::parse({reinterpret_cast<const char*>(data), size});
  if (!kernel.ok()) return 0;
  const std::string text = sporkle::ir::print(*kernel);
  const auto again = sporkle::ir::parse(text);
  if (!again.ok() || sporkle::ir::print(*again) != text) std::abort();
  return 0;
}
