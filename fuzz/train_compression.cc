// Compressed updates as a peer sends them: u16 count, then the bytes. What is accepted must be finite, and it must
// compress and come back; and so must the bytes themselves, read as numbers.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <vector>

#include "train/compression.h"

namespace {

using namespace sporkle::train;

void must_come_back(Compression compression, std::span<const float> values) {
  const auto encoded = compress(compression, values);
  if (!encoded.ok()) return;  // a number that is not finite, or too large
  std::vector<float> decoded(values.size());
  if (encoded->size() != compressed_size_bytes(compression, values.size())) std::abort();
  if (!decompress(*encoded, decoded).ok()) std::abort();
  for (const float value : decoded)
    if (!std::isfinite(value)) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const size_t count = data[0] | size_t{data[1]} << 8;
  const auto bytes = std::as_bytes(std::span(data, size)).subspan(2);
  std::vector<float> values(count, 5.0f);
  if (decompress(bytes, values).ok()) {
    for (const float value : values)
      if (!std::isfinite(value)) std::abort();
    for (const Compression compression : kCompressions) must_come_back(compression, values);
  } else {
    for (const float value : values)
      if (value != 5.0f) std::abort();  // changed on failure
  }
  values.resize(bytes.size() / sizeof(float));
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
  for (const Compression compression : kCompressions) must_come_back(compression, values);
  return 0;
}
