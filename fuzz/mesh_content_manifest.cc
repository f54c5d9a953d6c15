// Manifests from anywhere: either refused, or what encode() gives back.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "mesh/content_fetch.h"
#include "mesh/content_manifest.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  const auto manifest = sporkle::mesh::ContentManifest::parse(bytes);
  if (manifest.ok() && sporkle::mesh::ContentManifest::parse(manifest->encode()).value() != *manifest) std::abort();
  // The same bytes as a request for a piece of something that is not there.
  const sporkle::mesh::ContentManifest other;
  (void)sporkle::mesh::answer_piece_request({{reinterpret_cast<const char*>(data), size}, {}}, other, {});
  return 0;
}
