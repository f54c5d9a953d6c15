// A corpus as tokens on disk, mapped into memory. Little-endian: a header of 128 bytes, then the tokens.
//
//   offset  0  8 bytes   "SPKTOKEN"
//           8  u32       version, 1
//          12  u32       bytes in a token, 2 or 4
//          16  u64       number of tokens
//          24  u64       bytes of text they stand for
//          32  u32       vocabulary size; every token is below it
//          36  u32       0
//          40  32 bytes  the tokenizer's digest
//          72  32 bytes  the corpus's SHA-256
//         104  24 bytes  0
//
// Written once under a temporary name and renamed; never changed afterwards. A TokenFile owns its map and is immutable,
// so any number of threads may read it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/sha256.h"
#include "base/status.h"
#include "train/corpus.h"
#include "train/tokenizer.h"

namespace sporkle::train {

struct TokenFileInfo {
  uint64_t count = 0;
  uint64_t text_bytes = 0;
  int32_t vocab_size = 0;
  uint32_t bytes_per_token = 2;
  Digest tokenizer{};
  Digest source{};
};

class TokenFile {
 public:
  // corrupt_data when the header, the size or any token is wrong.
  static Result<TokenFile> open(const std::filesystem::path& path);
  // The same checks over bytes that the caller keeps alive.
  static Result<TokenFile> parse(std::span<const std::byte> bytes, std::string_view name);

  const TokenFileInfo& info() const { return info_; }
  uint64_t size() const { return info_.count; }
  // Writes tokens [begin, begin + out.size()), which must lie inside.
  void read(uint64_t begin, std::span<int32_t> out) const;

 private:
  TokenFile() = default;
  TokenFileInfo info_;
  std::shared_ptr<const MappedFile> map_;
  const std::byte* tokens_ = nullptr;
};

// Encodes every document, with end_of_text() between them where the tokenizer has it, and writes the file.
Status write_token_file(const std::filesystem::path& path, const Corpus& corpus, const Tokenizer& tokenizer,
                        const PrepareProgress& progress = {});

// The token file of corpus and tokenizer in cache_directory()/tokens, written now if it is not there or damaged.
Result<TokenFile> cached_token_file(const Corpus& corpus, const Tokenizer& tokenizer,
                                    const PrepareProgress& progress = {});

// config.tokenizer: "bytes", a BPE trained on the corpus (kept in cache_directory()/tokenizers), or a file.
Result<TokenizerPtr> prepare_tokenizer(const DataConfig& config, const Corpus& corpus,
                                       const PrepareProgress& progress = {});

}  // namespace sporkle::train
