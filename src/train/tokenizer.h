// Text to token ids and back. A Tokenizer is immutable and may be used from any number of threads.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/sha256.h"
#include "base/status.h"

namespace sporkle::train {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // "bytes" or "bpe".
  virtual std::string_view kind() const = 0;
  // Every id is below this.
  virtual int32_t vocab_size() const = 0;
  // Appends the ids of `text`. Any bytes are accepted, well-formed UTF-8 or not, and decode to themselves.
  virtual void encode(std::string_view text, std::vector<int32_t>& ids) const = 0;
  // The bytes that `id` stands for; empty for an id that is not in the vocabulary.
  virtual std::string_view token_bytes(int32_t id) const = 0;
  // The token between documents, where the vocabulary has one.
  virtual std::optional<int32_t> end_of_text() const { return std::nullopt; }
  // A place near `wanted` at which `text` may be cut so that encoding the two parts gives the ids of the whole, or
  // text.size().
  virtual size_t safe_cut(std::string_view text, size_t wanted) const = 0;
  // Equal for two tokenizers that encode alike: SHA-256 of the definition. Part of a token file's header.
  virtual const Digest& digest() const = 0;
  // The text of a Hugging Face tokenizer.json; "" for the byte tokenizer, which has no such form.
  virtual std::string to_json() const = 0;

  std::vector<int32_t> encode(std::string_view text) const;
  // invalid_argument for an id that is not in the vocabulary. The bytes need not be whole characters: a terminal wants
  // Utf8Stream (unicode.h) over token_bytes.
  Result<std::string> decode(std::span<const int32_t> ids) const;
};

using TokenizerPtr = std::shared_ptr<const Tokenizer>;

// One id for each byte value.
TokenizerPtr byte_tokenizer();

// A Hugging Face tokenizer.json: a byte-level BPE as GPT-2's. corrupt_data or unsupported, naming the file and the
// field, for anything else.
Result<TokenizerPtr> load_tokenizer(const std::filesystem::path& path);
Result<TokenizerPtr> parse_tokenizer(std::string_view json, std::string_view name);

}  // namespace sporkle::train
