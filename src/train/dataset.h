// Batches for training and evaluation out of a token file.
//
// The last `validation_fraction` of the tokens are for validation, the rest for training. A training row is a window at
// an offset that depends on (seed, step, row) alone: any worker can make any batch, and a resumed run sees what an
// uninterrupted one would have seen. A Dataset shares its token file and is immutable: thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "base/status.h"
#include "train/config.h"
#include "train/token_file.h"
#include "train/tokenizer.h"

namespace sporkle::train {

// Tokens [begin, end).
struct TokenRange {
  uint64_t begin = 0;
  uint64_t end = 0;
  uint64_t size() const { return end - begin; }
  bool operator==(const TokenRange&) const = default;
};

class Dataset {
 public:
  // Corpus, tokenizer and token file as the config says, from the caches where they are there.
  static Result<Dataset> open(const DataConfig& config, int64_t context, const PrepareProgress& progress = {});
  // The same with a given tokenizer, for `sporkle eval` of a checkpoint: everything in it is validation().
  static Result<Dataset> open_for_evaluation(const Corpus& corpus, TokenizerPtr tokenizer, int64_t context);
  // invalid_argument when a part holds no window of context + 1 tokens. A fraction of 1 leaves no training part.
  static Result<Dataset> split(TokenFile tokens, TokenizerPtr tokenizer, int64_t context, double validation_fraction);

  const Tokenizer& tokenizer() const { return *tokenizer_; }
  TokenizerPtr shared_tokenizer() const { return tokenizer_; }
  const TokenFile& tokens() const { return *tokens_; }
  int64_t context() const { return context_; }
  TokenRange training() const { return training_; }
  TokenRange validation() const { return validation_; }
  // Part `index` of `count` nearly equal parts of training(). invalid_argument when it is too small for a window.
  Result<TokenRange> shard(int64_t index, int64_t count) const;

  // Fills inputs and targets, rows x context each, targets one token ahead: rows first_row, first_row + 1, ... of
  // `step`. `range` holds at least context + 1 tokens.
  void batch(TokenRange range, uint64_t seed, uint64_t step, uint64_t first_row, std::span<int32_t> inputs,
             std::span<int32_t> targets) const;

  // Evaluation goes through consecutive windows, each predicting its `context` tokens once. What is left over at the
  // end of the range is not predicted.
  int64_t window_count(TokenRange range) const;
  // Windows first, first + 1, ... below window_count, rows x context.
  void windows(TokenRange range, int64_t first, std::span<int32_t> inputs, std::span<int32_t> targets) const;
  // The bytes of text that the targets stand for: nats per token to bits per byte.
  uint64_t text_bytes(std::span<const int32_t> targets) const;

 private:
  Dataset() = default;
  void fill(uint64_t begin, std::span<int32_t> inputs, std::span<int32_t> targets) const;

  std::shared_ptr<const TokenFile> tokens_;
  TokenizerPtr tokenizer_;
  int64_t context_ = 0;
  TokenRange training_;
  TokenRange validation_;
};

}  // namespace sporkle::train
