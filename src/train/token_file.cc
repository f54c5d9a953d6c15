#include "train/token_file.h"

#include <bit>
#include <cassert>
#include <cstring>
#include <system_error>

#include "base/file_writer.h"
#include "train/bpe.h"

namespace sporkle::train {
namespace {

namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

constexpr char kMagic[8] = {'S', 'P', 'K', 'T', 'O', 'K', 'E', 'N'};
constexpr uint32_t kVersion = 1;
// Text is encoded in parts of about this size, so that memory does not grow with the corpus.
constexpr size_t kPartBytes = 1 << 20;

struct Header {
  char magic[8];
  uint32_t version;
  uint32_t bytes_per_token;
  uint64_t count;
  uint64_t text_bytes;
  uint32_t vocab_size;
  uint32_t zero;
  std::byte tokenizer[32];
  std::byte source[32];
  std::byte reserved[24];
};
static_assert(sizeof(Header) == 128);

uint32_t bytes_per_token(int32_t vocab_size) { return vocab_size <= 1 << 16 ? 2 : 4; }

// The largest of `count` tokens; with 4 bytes a negative one counts as very large.
template <typename T>
uint32_t largest(const std::byte* tokens, uint64_t count) {
  uint32_t result = 0;
  for (uint64_t i = 0; i < count; ++i) {
    T token;
    std::memcpy(&token, tokens + i * sizeof(T), sizeof(T));
    result = token > result ? token : result;
  }
  return result;
}

template <typename T>
Status write_tokens(FileWriter& writer, std::span<const int32_t> ids) {
  const std::vector<T> narrow(ids.begin(), ids.end());
  return writer.write(std::as_bytes(std::span(narrow)));
}

// A folder of the cache, there afterwards.
Result<fs::path> cache_folder(const char* name) {
  fs::path folder = cache_directory() / name;
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) return errno_status(error.value(), "cannot create " + folder.string());
  return folder;
}

std::string short_hex(const Digest& digest) { return to_hex(digest).substr(0, 32); }

}  // namespace

Result<TokenFile> TokenFile::parse(std::span<const std::byte> bytes, std::string_view name) {
  const auto corrupt = [&](const std::string& what) { return corrupt_data(std::string(name) + ": " + what); };
  Header header;
  if (bytes.size() < sizeof header)
    return corrupt("too short for a token file: " + std::to_string(bytes.size()) + " bytes");
  std::memcpy(&header, bytes.data(), sizeof header);
  if (std::memcmp(header.magic, kMagic, sizeof kMagic) != 0) return corrupt("not a token file");
  if (header.version != kVersion)
    return corrupt("a token file of version " + std::to_string(header.version) + "; this program reads " +
                   std::to_string(kVersion));
  if (header.vocab_size == 0 || header.vocab_size > static_cast<uint32_t>(kMaxVocabSize))
    return corrupt("impossible vocabulary size " + std::to_string(header.vocab_size));
  if (header.bytes_per_token != 2 && header.bytes_per_token != 4)
    return corrupt("tokens of " + std::to_string(header.bytes_per_token) + " bytes");
  const uint64_t size = bytes.size() - sizeof header;
  if (size % header.bytes_per_token != 0 || size / header.bytes_per_token != header.count)
    return corrupt("cut short or overlong: " + std::to_string(header.count) + " tokens of " +
                   std::to_string(header.bytes_per_token) + " bytes in " + std::to_string(size));
  TokenFile file;
  file.tokens_ = bytes.data() + sizeof header;
  const uint32_t top = header.bytes_per_token == 2 ? largest<uint16_t>(file.tokens_, header.count)
                                                   : largest<uint32_t>(file.tokens_, header.count);
  if (top >= header.vocab_size)
    return corrupt("token " + std::to_string(top) + " in a vocabulary of " + std::to_string(header.vocab_size));
  file.info_.count = header.count;
  file.info_.text_bytes = header.text_bytes;
  file.info_.vocab_size = static_cast<int32_t>(header.vocab_size);
  file.info_.bytes_per_token = header.bytes_per_token;
  std::memcpy(file.info_.tokenizer.data(), header.tokenizer, sizeof header.tokenizer);
  std::memcpy(file.info_.source.data(), header.source, sizeof header.source);
  return file;
}

Result<TokenFile> TokenFile::open(const fs::path& path) {
  SPORKLE_ASSIGN_OR_RETURN(MappedFile map, MappedFile::open(path));
  auto shared = std::make_shared<const MappedFile>(std::move(map));
  SPORKLE_ASSIGN_OR_RETURN(TokenFile file, parse(shared->bytes(), path.string()));
  file.map_ = std::move(shared);
  return file;
}

void TokenFile::read(uint64_t begin, std::span<int32_t> out) const {
  assert(begin <= info_.count && out.size() <= info_.count - begin);
  const std::byte* tokens = tokens_ + begin * info_.bytes_per_token;
  if (info_.bytes_per_token == 4) {
    std::memcpy(out.data(), tokens, out.size_bytes());
    return;
  }
  for (size_t i = 0; i < out.size(); ++i) {
    uint16_t token;
    std::memcpy(&token, tokens + i * sizeof token, sizeof token);
    out[i] = token;
  }
}

Status write_token_file(const fs::path& path, const Corpus& corpus, const Tokenizer& tokenizer,
                        const PrepareProgress& progress) {
  Header header{};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  header.version = kVersion;
  header.vocab_size = static_cast<uint32_t>(tokenizer.vocab_size());
  header.bytes_per_token = bytes_per_token(tokenizer.vocab_size());
  std::memcpy(header.tokenizer, tokenizer.digest().data(), sizeof header.tokenizer);
  std::memcpy(header.source, corpus.sha256.data(), sizeof header.source);

  SPORKLE_ASSIGN_OR_RETURN(FileWriter writer, FileWriter::create(path));
  SPORKLE_RETURN_IF_ERROR(writer.write(std::as_bytes(std::span(&header, 1))));
  std::vector<int32_t> ids;
  uint64_t encoded_bytes = 0;
  const Status encoded = for_each_document(corpus, [&](std::string_view text) -> Status {
    ids.clear();
    if (header.count > 0 && tokenizer.end_of_text()) ids.push_back(*tokenizer.end_of_text());
    header.text_bytes += text.size();
    while (!text.empty()) {
      const size_t cut = tokenizer.safe_cut(text, kPartBytes);
      tokenizer.encode(text.substr(0, cut), ids);
      text.remove_prefix(cut);
      header.count += ids.size();
      SPORKLE_RETURN_IF_ERROR(header.bytes_per_token == 2 ? write_tokens<uint16_t>(writer, ids)
                                                          : write_tokens<uint32_t>(writer, ids));
      ids.clear();
      encoded_bytes += cut;
      if (progress) progress("tokenizing", encoded_bytes, corpus.size_bytes);
    }
    return {};
  });
  SPORKLE_RETURN_IF_ERROR(encoded);
  SPORKLE_RETURN_IF_ERROR(writer.write_at(0, std::as_bytes(std::span(&header, 1))));
  return writer.commit();
}

Result<TokenFile> cached_token_file(const Corpus& corpus, const Tokenizer& tokenizer, const PrepareProgress& progress) {
  SPORKLE_ASSIGN_OR_RETURN(const fs::path folder, cache_folder("tokens"));
  const fs::path path = folder / (short_hex(corpus.sha256) + "-" + short_hex(tokenizer.digest()) + ".tokens");
  const auto fits = [&](const TokenFile& file) {
    return file.info().source == corpus.sha256 && file.info().tokenizer == tokenizer.digest() &&
           file.info().vocab_size == tokenizer.vocab_size();
  };
  if (auto file = TokenFile::open(path); file.ok() && fits(*file)) return file;
  SPORKLE_RETURN_IF_ERROR(write_token_file(path, corpus, tokenizer, progress));
  return TokenFile::open(path);
}

Result<TokenizerPtr> prepare_tokenizer(const DataConfig& config, const Corpus& corpus,
                                       const PrepareProgress& progress) {
  if (config.tokenizer == "bytes") return byte_tokenizer();
  if (config.tokenizer != "bpe") return load_tokenizer(config.tokenizer);
  SPORKLE_ASSIGN_OR_RETURN(const fs::path folder, cache_folder("tokenizers"));
  const fs::path path =
      folder / ("bpe1-" + std::to_string(config.vocab_size) + "-" + short_hex(corpus.sha256) + ".json");
  if (auto tokenizer = load_tokenizer(path); tokenizer.ok()) return tokenizer;
  BpeTrainer trainer;
  SPORKLE_RETURN_IF_ERROR(for_each_document(corpus, [&](std::string_view text) -> Status {
    trainer.add(text);
    return {};
  }));
  SPORKLE_ASSIGN_OR_RETURN(BpeModel model, trainer.train(config.vocab_size, progress));
  SPORKLE_ASSIGN_OR_RETURN(TokenizerPtr tokenizer, make_bpe_tokenizer(std::move(model)));
  SPORKLE_RETURN_IF_ERROR(write_file_atomically(path, tokenizer->to_json()));
  return tokenizer;
}

}  // namespace sporkle::train
