#include "train/bpe.h"

#include <algorithm>
#include <array>
#include <queue>
#include <string>
#include <unordered_map>
#include <utility>

#include "train/unicode.h"

namespace sporkle::train {
namespace {

constexpr size_t kMaxCachedPieces = 1 << 16;
constexpr size_t kMaxCachedPieceBytes = 64;

uint64_t pair_key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

struct Merge {
  int32_t rank;
  int32_t result;
};

// The added tokens of one round of matching, looked up by first byte, longest first.
class AddedTokenMatcher {
 public:
  void add(const AddedToken& token) { by_first_byte_[static_cast<unsigned char>(token.content[0])].push_back(token); }

  void finish() {
    for (auto& tokens : by_first_byte_) {
      std::stable_sort(tokens.begin(), tokens.end(),
                       [](const auto& a, const auto& b) { return a.content.size() > b.content.size(); });
      empty_ = empty_ && tokens.empty();
    }
  }

  bool empty() const { return empty_; }

  const AddedToken* match(std::string_view text, size_t offset) const {
    for (const AddedToken& token : by_first_byte_[static_cast<unsigned char>(text[offset])])
      if (text.substr(offset).starts_with(token.content)) return &token;
    return nullptr;
  }

  // Calls gap(text) and found(token) in order; gaps are not empty.
  template <typename Gap, typename Found>
  void split(std::string_view text, Gap&& gap, Found&& found) const {
    size_t begin = 0;
    for (size_t i = 0; !empty_ && i < text.size();) {
      const AddedToken* token = match(text, i);
      if (!token) {
        ++i;
        continue;
      }
      if (i > begin) gap(text.substr(begin, i - begin));
      found(*token);
      begin = i += token->content.size();
    }
    if (begin < text.size()) gap(text.substr(begin));
  }

 private:
  std::array<std::vector<AddedToken>, 256> by_first_byte_;
  bool empty_ = true;
};

class BpeTokenizer final : public Tokenizer {
 public:
  explicit BpeTokenizer(BpeModel model) : model_(std::move(model)) {}

  Status prepare() {
    std::unordered_map<std::string_view, int32_t> ids;
    for (size_t id = 0; id < model_.tokens.size(); ++id)
      if (!model_.tokens[id].empty()) ids.emplace(model_.tokens[id], static_cast<int32_t>(id));
    for (size_t byte = 0; byte < byte_ids_.size(); ++byte) {
      const char character = static_cast<char>(byte);
      const auto found = ids.find(std::string_view(&character, 1));
      if (found == ids.end())
        return invalid_argument("the vocabulary has no token for the byte " + std::to_string(byte) +
                                ": a byte-level vocabulary needs all 256");
      byte_ids_[byte] = found->second;
    }
    merges_.reserve(model_.merges.size());
    for (size_t rank = 0; rank < model_.merges.size(); ++rank) {
      const auto [left, right] = model_.merges[rank];
      const auto known = [&](int32_t id) {
        return id >= 0 && static_cast<size_t>(id) < model_.tokens.size() &&
               !model_.tokens[static_cast<size_t>(id)].empty();
      };
      if (!known(left) || !known(right))
        return invalid_argument("merge " + std::to_string(rank) + " names a token that is not in the vocabulary");
      const auto result =
          ids.find(model_.tokens[static_cast<size_t>(left)] + model_.tokens[static_cast<size_t>(right)]);
      if (result == ids.end())
        return invalid_argument("the result of merge " + std::to_string(rank) + " is not in the vocabulary");
      // Of a pair that is there twice the later rank counts, as in Hugging Face's reader.
      merges_[pair_key(left, right)] = {static_cast<int32_t>(rank), result->second};
    }
    for (const AddedToken& token : model_.added) {
      if (token.id < 0 || token.id >= kMaxVocabSize || token.content.empty())
        return invalid_argument("added token \"" + token.content + "\" needs an id from 0 to " +
                                std::to_string(kMaxVocabSize - 1) + " and a content that is not empty; its id is " +
                                std::to_string(token.id));
      const size_t id = static_cast<size_t>(token.id);
      if (id >= model_.tokens.size()) model_.tokens.resize(id + 1);
      model_.tokens[id] = token.content;
      (token.normalized ? second_ : first_).add(token);
      if (token.content == "<|endoftext|>") end_of_text_ = token.id;
      has_spaced_token_ = has_spaced_token_ || token.content.find(' ') != std::string::npos;
    }
    first_.finish();
    second_.finish();
    digest_ = sha256(bpe_to_json(model_));
    return {};
  }

  std::string_view kind() const override { return "bpe"; }
  int32_t vocab_size() const override { return static_cast<int32_t>(model_.tokens.size()); }
  std::string_view token_bytes(int32_t id) const override {
    if (id < 0 || id >= vocab_size()) return {};
    return model_.tokens[static_cast<size_t>(id)];
  }
  std::optional<int32_t> end_of_text() const override { return end_of_text_; }
  const Digest& digest() const override { return digest_; }
  std::string to_json() const override { return bpe_to_json(model_); }

  void encode(std::string_view text, std::vector<int32_t>& ids) const override {
    PieceCache cache;
    const auto found = [&](const AddedToken& token) { ids.push_back(token.id); };
    first_.split(
        text,
        [&](std::string_view gap) {
          second_.split(
              gap, [&](std::string_view t) { encode_gap(t, cache, ids); }, found);
        },
        found);
  }

  size_t safe_cut(std::string_view text, size_t wanted) const override {
    // No piece goes from a character that is not a space to a space, and the pattern never looks back. A piece without
    // the pattern, or an added token with a space in it, could be cut.
    if (!model_.use_regex || has_spaced_token_) return text.size();
    for (size_t i = std::max<size_t>(wanted, 1); i < text.size(); ++i)
      if (text[i] == ' ' && static_cast<unsigned char>(text[i - 1]) < 0x80 &&
          character_class(static_cast<unsigned char>(text[i - 1])) != CharacterClass::space)
        return i;
    return text.size();
  }

 private:
  using PieceCache = std::unordered_map<std::string_view, std::vector<int32_t>>;

  void encode_gap(std::string_view text, PieceCache& cache, std::vector<int32_t>& ids) const {
    if (model_.add_prefix_space && text[0] != ' ') {
      // A copy of the first piece only: cached pieces point into the text.
      std::string first(1, ' ');
      const size_t end = model_.use_regex ? prefixed_piece_end(text) : text.size();
      first.append(text.substr(0, end));
      for_each_piece_of(first, [&](std::string_view piece) { merge(piece, ids); });
      text.remove_prefix(end);
    }
    for_each_piece_of(text, [&](std::string_view piece) {
      if (piece.size() > kMaxCachedPieceBytes) return merge(piece, ids);
      const auto cached = cache.find(piece);
      if (cached != cache.end()) {
        ids.insert(ids.end(), cached->second.begin(), cached->second.end());
        return;
      }
      const size_t begin = ids.size();
      merge(piece, ids);
      if (cache.size() < kMaxCachedPieces)
        cache.emplace(piece, std::vector<int32_t>(ids.begin() + static_cast<ptrdiff_t>(begin), ids.end()));
    });
  }

  // How much of `text` to take along with a space set before it: up to a place where pieces certainly end.
  static size_t prefixed_piece_end(std::string_view text) {
    for (size_t i = 1; i < text.size(); ++i)
      if (text[i] == ' ' && static_cast<unsigned char>(text[i - 1]) < 0x80 &&
          character_class(static_cast<unsigned char>(text[i - 1])) != CharacterClass::space)
        return i;
    return text.size();
  }

  template <typename Piece>
  void for_each_piece_of(std::string_view text, Piece&& piece) const {
    if (model_.use_regex) return for_each_piece(text, piece);
    if (!text.empty()) piece(text);
  }

  // Merges the pair of lowest rank, of equals the leftmost, until none is left. A heap keeps a long piece at
  // O(n log n).
  void merge(std::string_view piece, std::vector<int32_t>& ids) const {
    struct Symbol {
      int32_t id;  // -1: merged into its left neighbour
      int32_t previous;
      int32_t next;
    };
    struct Candidate {
      int32_t rank;
      int32_t position;
      int32_t result;
      int32_t left, right;  // the pair this was found for
      bool operator>(const Candidate& other) const {
        return rank != other.rank ? rank > other.rank : position > other.position;
      }
    };
    const int32_t size = static_cast<int32_t>(piece.size());
    if (size == 1) {
      ids.push_back(byte_ids_[static_cast<unsigned char>(piece[0])]);
      return;
    }
    std::vector<Symbol> symbols(piece.size());
    for (int32_t i = 0; i < size; ++i)
      symbols[static_cast<size_t>(i)] = {byte_ids_[static_cast<unsigned char>(piece[static_cast<size_t>(i)])], i - 1,
                                         i + 1 < size ? i + 1 : -1};
    std::vector<Candidate> storage;
    storage.reserve(piece.size());
    std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> candidates(std::greater<>{},
                                                                                      std::move(storage));
    const auto consider = [&](int32_t position) {
      const Symbol& left = symbols[static_cast<size_t>(position)];
      if (left.next < 0) return;
      const int32_t right = symbols[static_cast<size_t>(left.next)].id;
      const auto found = merges_.find(pair_key(left.id, right));
      if (found != merges_.end()) candidates.push({found->second.rank, position, found->second.result, left.id, right});
    };
    for (int32_t i = 0; i + 1 < size; ++i) consider(i);
    while (!candidates.empty()) {
      const Candidate best = candidates.top();
      candidates.pop();
      Symbol& left = symbols[static_cast<size_t>(best.position)];
      if (left.id != best.left || left.next < 0) continue;
      Symbol& right = symbols[static_cast<size_t>(left.next)];
      if (right.id != best.right) continue;
      left.id = best.result;
      right.id = -1;
      left.next = right.next;
      if (left.next >= 0) symbols[static_cast<size_t>(left.next)].previous = best.position;
      if (left.previous >= 0) consider(left.previous);
      consider(best.position);
    }
    for (int32_t i = 0; i >= 0; i = symbols[static_cast<size_t>(i)].next)
      ids.push_back(symbols[static_cast<size_t>(i)].id);
  }

  BpeModel model_;
  std::array<int32_t, 256> byte_ids_{};
  std::unordered_map<uint64_t, Merge> merges_;
  AddedTokenMatcher first_;
  AddedTokenMatcher second_;
  std::optional<int32_t> end_of_text_;
  bool has_spaced_token_ = false;
  Digest digest_{};
};

}  // namespace

const std::vector<uint32_t>& byte_to_code_point() {
  static const std::vector<uint32_t> table = [] {
    std::vector<uint32_t> code_points(256);
    uint32_t next = 256;
    for (uint32_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
      code_points[byte] = printable ? byte : next++;
    }
    return code_points;
  }();
  return table;
}

size_t next_piece(std::string_view text, size_t offset) {
  const std::string_view rest = text.substr(offset);
  if (rest[0] == '\'') {
    for (const std::string_view contraction : {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"})
      if (rest.starts_with(contraction)) return offset + contraction.size();
  }
  const auto end_of_run = [&](size_t begin, CharacterClass wanted) {
    size_t end = begin;
    while (end < text.size()) {
      const CodePoint character = decode_utf8(text, end);
      if (character_class(character.value) != wanted) break;
      end += character.size;
    }
    return end;
  };
  const auto class_at = [&](size_t at) { return character_class(decode_utf8(text, at).value); };

  if (rest[0] == ' ' && rest.size() > 1) {
    const CharacterClass second = class_at(offset + 1);
    if (second != CharacterClass::space) return end_of_run(offset + 1, second);
  }
  const CharacterClass first = class_at(offset);
  if (first != CharacterClass::space) return end_of_run(offset, first);

  // Spaces: all of them at the end of the text, else all but the last, which goes with what follows.
  size_t end = offset;
  size_t last = offset;
  while (end < text.size()) {
    const CodePoint character = decode_utf8(text, end);
    if (character_class(character.value) != CharacterClass::space) break;
    last = end;
    end += character.size;
  }
  return end == text.size() || last == offset ? end : last;
}

Result<TokenizerPtr> make_bpe_tokenizer(BpeModel model) {
  auto tokenizer = std::make_shared<BpeTokenizer>(std::move(model));
  SPORKLE_RETURN_IF_ERROR(tokenizer->prepare());
  return TokenizerPtr(std::move(tokenizer));
}

}  // namespace sporkle::train
