// Any bytes as a token file; every token of one that is accepted is inside its vocabulary. The same bytes as
// bible.data.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#include "train/corpus.h"
#include "train/token_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  (void)sporkle::train::decode_bible_data(bytes);
  const auto file = sporkle::train::TokenFile::parse(bytes, "fuzz");
  if (!file.ok()) return 0;
  std::vector<int32_t> tokens(file->size());
  file->read(0, tokens);
  for (const int32_t token : tokens)
    if (token < 0 || token >= file->info().vocab_size) std::abort();
  return 0;
}
