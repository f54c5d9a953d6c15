// Byte-level byte-pair encoding as in GPT-2 (Sennrich et al. 2016, Radford et al. 2019): text is cut into pieces by the
// GPT-2 pattern, every piece is a sequence of bytes, and pairs are merged in order of their rank. A vocabulary is
// learned by BpeTrainer here or read from a Hugging Face tokenizer.json (tokenizer.h).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"
#include "train/corpus.h"
#include "train/tokenizer.h"

namespace sporkle::train {

inline constexpr int32_t kMaxVocabSize = 1 << 24;

struct AddedToken {
  int32_t id = 0;
  std::string content;  // matched in the text before anything else
  bool special = true;
  bool normalized = false;  // matched after those that are not
};

// All that defines a byte-level BPE.
struct BpeModel {
  std::vector<std::string> tokens;                  // by id, as bytes; an id that is not used has ""
  std::vector<std::pair<int32_t, int32_t>> merges;  // by rank; the merged bytes are a token
  std::vector<AddedToken> added;
  bool add_prefix_space = false;
  bool use_regex = true;  // false: no cutting into pieces
};

// invalid_argument when a merge's result, or a single byte, is no token, or an id is out of range.
Result<TokenizerPtr> make_bpe_tokenizer(BpeModel model);

// Learns merges from text. Same text and size, same vocabulary: the most frequent pair first, of equals the one with
// the smaller ids. Ids: 256 bytes in GPT-2's order, then the merges, then "<|endoftext|>". One thread at a time.
class BpeTrainer {
 public:
  BpeTrainer();
  ~BpeTrainer();
  BpeTrainer(const BpeTrainer&) = delete;
  BpeTrainer& operator=(const BpeTrainer&) = delete;

  // Counts the pieces of a document.
  void add(std::string_view text);
  // A vocabulary of `vocab_size` (at least 257) tokens, or of fewer when no pair is left that occurs twice.
  Result<BpeModel> train(int64_t vocab_size, const PrepareProgress& progress = {}) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// The GPT-2 pattern without a regex engine: calls `piece(std::string_view)` for each piece of `text`, in order.
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
size_t next_piece(std::string_view text, size_t offset);  // the end of the piece that begins at `offset`
template <typename Piece>
void for_each_piece(std::string_view text, Piece&& piece) {
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = next_piece(text, begin);
    piece(text.substr(begin, end - begin));
    begin = end;
  }
}

// GPT-2's printable stand-in (a code point) for each byte value.
const std::vector<uint32_t>& byte_to_code_point();

// The text of tokenizer.json, and back.
std::string bpe_to_json(const BpeModel& model);
Result<BpeModel> bpe_from_json(std::string_view json, std::string_view name);

}  // namespace sporkle::train
