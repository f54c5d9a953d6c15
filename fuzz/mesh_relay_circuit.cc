// Any bytes are a preamble, which encodes to the same bytes again, or an error.
#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "mesh/relay_circuit.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sporkle::mesh;
  const auto bytes = std::as_bytes(std::span(data, size));
  const auto token = decode_relay_preamble(bytes);
  if (token.ok() && !std::ranges::equal(encode_relay_preamble(*token), bytes)) std::abort();
  return 0;
}
