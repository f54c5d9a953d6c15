// The reader of GPU code on any bytes: it may refuse, but what it accepts must be written back as the same bytes and
// read again.
#include <cstdint>
#include <cstdlib>

#include "codegen/gpu_abi.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto code = sporkle::codegen::decode_gpu_code({reinterpret_cast<const std::byte*>(data), size});
  if (!code.ok()) return 0;
  const std::vector<std::byte> bytes = sporkle::codegen::encode(*code);
  const auto again = sporkle::codegen::decode_gpu_code(bytes);
  if (!again.ok() || sporkle::codegen::encode(*again) != bytes) std::abort();
  (void)code->launch.evaluate(std::vector<uint64_t>(code->launch.scalar_count(), 3));
  return 0;
}
