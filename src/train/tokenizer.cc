#include "train/tokenizer.h"

#include <algorithm>
#include <array>

#include "base/file.h"
#include "train/bpe.h"

namespace sporkle::train {
namespace {

class ByteTokenizer final : public Tokenizer {
 public:
  ByteTokenizer() : digest_(sha256("sporkle byte tokenizer, 256 ids")) {
    for (size_t i = 0; i < bytes_.size(); ++i) bytes_[i] = static_cast<char>(i);
  }
  std::string_view kind() const override { return "bytes"; }
  int32_t vocab_size() const override { return static_cast<int32_t>(bytes_.size()); }
  void encode(std::string_view text, std::vector<int32_t>& ids) const override {
    ids.reserve(ids.size() + text.size());
    for (const char byte : text) ids.push_back(static_cast<unsigned char>(byte));
  }
  std::string_view token_bytes(int32_t id) const override {
    if (id < 0 || id >= vocab_size()) return {};
    return {&bytes_[static_cast<size_t>(id)], 1};
  }
  size_t safe_cut(std::string_view text, size_t wanted) const override { return std::min(text.size(), wanted); }
  const Digest& digest() const override { return digest_; }
  std::string to_json() const override { return {}; }

 private:
  std::array<char, 256> bytes_{};
  Digest digest_;
};

}  // namespace

std::vector<int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<int32_t> ids;
  encode(text, ids);
  return ids;
}

Result<std::string> Tokenizer::decode(std::span<const int32_t> ids) const {
  std::string text;
  for (const int32_t id : ids) {
    const std::string_view bytes = token_bytes(id);
    if (bytes.empty())
      return invalid_argument("token " + std::to_string(id) + " is not in the vocabulary of " +
                              std::to_string(vocab_size()) + " tokens");
    text.append(bytes);
  }
  return text;
}

TokenizerPtr byte_tokenizer() { return std::make_shared<ByteTokenizer>(); }

Result<TokenizerPtr> parse_tokenizer(std::string_view json, std::string_view name) {
  SPORKLE_ASSIGN_OR_RETURN(BpeModel model, bpe_from_json(json, name));
  auto tokenizer = make_bpe_tokenizer(std::move(model));
  if (!tokenizer.ok()) return corrupt_data(std::string(name) + ": " + tokenizer.status().message());
  return tokenizer;
}

Result<TokenizerPtr> load_tokenizer(const std::filesystem::path& path) {
  SPORKLE_ASSIGN_OR_RETURN(const std::string json, read_file(path));
  return parse_tokenizer(json, path.string());
}

}  // namespace sporkle::train
