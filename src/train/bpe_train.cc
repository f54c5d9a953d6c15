#include <algorithm>
#include <numeric>
#include <queue>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "train/bpe.h"
#include "train/unicode.h"

namespace sporkle::train {
namespace {

// A merge scans the pieces it occurs in from end to end, so a piece without end (a file with no spaces) is learned from
// in parts.
constexpr size_t kMaxPieceBytes = 1024;
constexpr int64_t kMinPairCount = 2;

struct StringHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};

using Pair = std::pair<int32_t, int32_t>;
struct PairHash {
  size_t operator()(const Pair& pair) const {
    return std::hash<uint64_t>{}(
        (static_cast<uint64_t>(static_cast<uint32_t>(pair.first)) << 32 | static_cast<uint32_t>(pair.second)) *
        0x9E3779B97F4A7C15u);
  }
};

struct Word {
  std::vector<int32_t> symbols;
  int64_t count;
};

struct PairInfo {
  int64_t count = 0;
  std::vector<uint32_t> words;  // that hold the pair, or once did; a word may be here twice
};

struct Candidate {
  int64_t count;
  Pair pair;
  bool operator<(const Candidate& other) const {
    return count != other.count ? count < other.count : pair > other.pair;
  }
};

class MergeLearner {
 public:
  explicit MergeLearner(std::vector<Word> words) : words_(std::move(words)) {
    for (uint32_t i = 0; i < words_.size(); ++i) {
      add_pairs(words_[i], +1);
      for (size_t s = 0; s + 1 < words_[i].symbols.size(); ++s)
        occurs({words_[i].symbols[s], words_[i].symbols[s + 1]}, i);
    }
    for (const auto& [pair, info] : pairs_) heap_.push({info.count, pair});
  }

  // The most frequent pair and its count; a count of 0 when there is none.
  Candidate best() {
    while (!heap_.empty()) {
      const Candidate top = heap_.top();
      const int64_t count = pairs_[top.pair].count;
      if (count == top.count) return top;
      // The count has changed since this entry was made.
      heap_.pop();
      if (count > 0) heap_.push({count, top.pair});
    }
    return {0, {}};
  }

  void merge(Pair pair, int32_t merged) {
    heap_.pop();
    std::vector<Pair> touched;
    const std::vector<uint32_t> holders = std::move(pairs_[pair].words);
    for (const uint32_t index : holders) {
      Word& word = words_[index];
      if (!contains(word, pair)) continue;
      add_pairs(word, -1);
      replace(word, pair, merged);
      add_pairs(word, +1);
      for (size_t s = 0; s + 1 < word.symbols.size(); ++s) {
        const Pair made{word.symbols[s], word.symbols[s + 1]};
        if (made.first != merged && made.second != merged) continue;
        occurs(made, index);
        touched.push_back(made);
      }
    }
    std::sort(touched.begin(), touched.end());
    touched.erase(std::unique(touched.begin(), touched.end()), touched.end());
    for (const Pair& made : touched) heap_.push({pairs_[made].count, made});
  }

 private:
  void add_pairs(const Word& word, int64_t sign) {
    for (size_t s = 0; s + 1 < word.symbols.size(); ++s)
      pairs_[{word.symbols[s], word.symbols[s + 1]}].count += sign * word.count;
  }

  void occurs(const Pair& pair, uint32_t word) {
    std::vector<uint32_t>& words = pairs_[pair].words;
    if (words.empty() || words.back() != word) words.push_back(word);
  }

  static bool contains(const Word& word, const Pair& pair) {
    for (size_t s = 0; s + 1 < word.symbols.size(); ++s)
      if (word.symbols[s] == pair.first && word.symbols[s + 1] == pair.second) return true;
    return false;
  }

  static void replace(Word& word, const Pair& pair, int32_t merged) {
    size_t out = 0;
    for (size_t s = 0; s < word.symbols.size(); ++s) {
      const bool here =
          s + 1 < word.symbols.size() && word.symbols[s] == pair.first && word.symbols[s + 1] == pair.second;
      word.symbols[out++] = here ? merged : word.symbols[s];
      if (here) ++s;
    }
    word.symbols.resize(out);
  }

  std::vector<Word> words_;
  std::unordered_map<Pair, PairInfo, PairHash> pairs_;
  std::priority_queue<Candidate> heap_;
};

}  // namespace

struct BpeTrainer::State {
  std::unordered_map<std::string, int64_t, StringHash, std::equal_to<>> pieces;

  void count(std::string_view piece) {
    const auto found = pieces.find(piece);
    if (found != pieces.end()) {
      ++found->second;
    } else {
      pieces.emplace(piece, 1);
    }
  }
};

BpeTrainer::BpeTrainer() : state_(std::make_unique<State>()) {}
BpeTrainer::~BpeTrainer() = default;

void BpeTrainer::add(std::string_view text) {
  for_each_piece(text, [&](std::string_view piece) {
    for (size_t begin = 0; begin < piece.size(); begin += kMaxPieceBytes)
      state_->count(piece.substr(begin, kMaxPieceBytes));
  });
}

Result<BpeModel> BpeTrainer::train(int64_t vocab_size, const PrepareProgress& progress) const {
  if (vocab_size < 257 || vocab_size > kMaxVocabSize)
    return invalid_argument(
        "a BPE vocabulary of " + std::to_string(vocab_size) +
        " tokens was asked for: it needs 256 bytes and <|endoftext|>, so 257 or more, and at most " +
        std::to_string(kMaxVocabSize));
  BpeModel model;
  std::vector<uint32_t> order(256);
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(),
            [](uint32_t a, uint32_t b) { return byte_to_code_point()[a] < byte_to_code_point()[b]; });
  std::vector<int32_t> byte_ids(256);
  std::unordered_map<std::string, int32_t> ids;
  for (const uint32_t byte : order) {
    byte_ids[byte] = static_cast<int32_t>(model.tokens.size());
    model.tokens.emplace_back(1, static_cast<char>(byte));
    ids.emplace(model.tokens.back(), byte_ids[byte]);
  }

  std::vector<Word> words;
  words.reserve(state_->pieces.size());
  for (const auto& [piece, count] : state_->pieces) {
    Word word{{}, count};
    for (const char byte : piece) word.symbols.push_back(byte_ids[static_cast<unsigned char>(byte)]);
    words.push_back(std::move(word));
  }
  MergeLearner learner(std::move(words));
  while (static_cast<int64_t>(model.tokens.size()) + 1 < vocab_size) {
    const Candidate best = learner.best();
    if (best.count < kMinPairCount) break;
    std::string merged =
        model.tokens[static_cast<size_t>(best.pair.first)] + model.tokens[static_cast<size_t>(best.pair.second)];
    // Two pairs can spell the same bytes; they share a token.
    const auto [entry, is_new] = ids.emplace(std::move(merged), static_cast<int32_t>(model.tokens.size()));
    if (is_new) model.tokens.push_back(entry->first);
    model.merges.push_back(best.pair);
    learner.merge(best.pair, entry->second);
    if (progress) progress("learning a tokenizer", model.tokens.size(), static_cast<uint64_t>(vocab_size));
  }
  const std::string end_of_text = "<|endoftext|>";
  model.added.push_back({static_cast<int32_t>(model.tokens.size()), end_of_text});
  model.tokens.push_back(end_of_text);
  return model;
}

}  // namespace sporkle::train
