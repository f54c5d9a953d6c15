// Any bytes as a safetensors file: refused or read, never a crash.
#include <cstddef>
#include <cstdint>
#include <span>

#include "train/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = sporkle::train::SafetensorsFile::parse(std::as_bytes(std::span(data, size)), "fuzz");
  if (!file.ok()) return 0;
  for (const auto& tensor : file->tensors()) (void)sporkle::train::to_f32(tensor);
  return 0;
}
