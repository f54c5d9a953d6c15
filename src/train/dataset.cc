#include "train/dataset.h"

#include <cassert>
#include <cmath>
#include <string>
#include <utility>

namespace sporkle::train {
namespace {

// SplitMix64's output function (Steele et al. 2014): a bijection that scatters neighbouring counters.
uint64_t mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
  x = (x ^ x >> 27) * 0x94D049BB133111EBu;
  return x ^ x >> 31;
}

uint64_t random_word(uint64_t seed, uint64_t step, uint64_t row) { return mix(mix(mix(seed) ^ step) ^ row); }

}  // namespace

Result<Dataset> Dataset::open(const DataConfig& config, int64_t context, const PrepareProgress& progress) {
  SPORKLE_ASSIGN_OR_RETURN(const Corpus corpus, open_corpus(config, progress));
  SPORKLE_ASSIGN_OR_RETURN(TokenizerPtr tokenizer, prepare_tokenizer(config, corpus, progress));
  SPORKLE_ASSIGN_OR_RETURN(TokenFile tokens, cached_token_file(corpus, *tokenizer, progress));
  return split(std::move(tokens), std::move(tokenizer), context, config.validation_fraction);
}

Result<Dataset> Dataset::open_for_evaluation(const Corpus& corpus, TokenizerPtr tokenizer, int64_t context) {
  SPORKLE_ASSIGN_OR_RETURN(TokenFile tokens, cached_token_file(corpus, *tokenizer));
  return split(std::move(tokens), std::move(tokenizer), context, 1.0);
}

Result<Dataset> Dataset::split(TokenFile tokens, TokenizerPtr tokenizer, int64_t context, double validation_fraction) {
  if (context < 1) return invalid_argument("a context of " + std::to_string(context) + " tokens; it must be 1 or more");
  if (!(validation_fraction >= 0.0 && validation_fraction <= 1.0))
    return invalid_argument("a validation fraction of " + std::to_string(validation_fraction) +
                            "; it lies from 0 to 1");
  if (tokens.info().vocab_size > tokenizer->vocab_size())
    return invalid_argument("the token file was made with a vocabulary of " + std::to_string(tokens.info().vocab_size) +
                            " tokens, the tokenizer has " + std::to_string(tokenizer->vocab_size()));
  Dataset dataset;
  const uint64_t count = tokens.size();
  const auto validation = static_cast<uint64_t>(std::llround(static_cast<double>(count) * validation_fraction));
  dataset.training_ = {0, count - validation};
  dataset.validation_ = {count - validation, count};
  dataset.context_ = context;
  const uint64_t window = static_cast<uint64_t>(context) + 1;
  const auto check = [&](const char* part, TokenRange range) -> Status {
    if (range.size() >= window) return {};
    return invalid_argument("too little text: the " + std::string(part) + " part has " + std::to_string(range.size()) +
                            " of all " + std::to_string(count) + " tokens, and a context of " +
                            std::to_string(context) + " needs " + std::to_string(window) +
                            "; use more text, another validation_fraction or a shorter context");
  };
  if (validation_fraction < 1.0) SPORKLE_RETURN_IF_ERROR(check("training", dataset.training_));
  if (validation_fraction > 0.0) SPORKLE_RETURN_IF_ERROR(check("validation", dataset.validation_));
  dataset.tokens_ = std::make_shared<const TokenFile>(std::move(tokens));
  dataset.tokenizer_ = std::move(tokenizer);
  return dataset;
}

Result<TokenRange> Dataset::shard(int64_t index, int64_t count) const {
  if (count < 1 || index < 0 || index >= count)
    return invalid_argument("shard " + std::to_string(index) + " of " + std::to_string(count) + " was asked for");
  const uint64_t n = static_cast<uint64_t>(count);
  const uint64_t i = static_cast<uint64_t>(index);
  const uint64_t base = training_.size() / n;
  const uint64_t rest = training_.size() % n;  // the first `rest` shards have one token more
  const auto begin_of = [&](uint64_t shard) { return training_.begin + shard * base + (shard < rest ? shard : rest); };
  // The smallest decides, so that either all shards can be had or none.
  if (base <= static_cast<uint64_t>(context_))
    return invalid_argument("cut into " + std::to_string(count) + " shards, the training text of " +
                            std::to_string(training_.size()) + " tokens gives each " + std::to_string(base) +
                            ", too few for a context of " + std::to_string(context_));
  return TokenRange{begin_of(i), begin_of(i + 1)};
}

void Dataset::fill(uint64_t begin, std::span<int32_t> inputs, std::span<int32_t> targets) const {
  tokens_->read(begin, inputs);
  tokens_->read(begin + 1, targets);
}

void Dataset::batch(TokenRange range, uint64_t seed, uint64_t step, uint64_t first_row, std::span<int32_t> inputs,
                    std::span<int32_t> targets) const {
  const size_t context = static_cast<size_t>(context_);
  assert(inputs.size() == targets.size() && inputs.size() % context == 0 && range.size() > context);
  const uint64_t offsets = range.size() - context;
  for (size_t row = 0; row < inputs.size() / context; ++row) {
    const uint64_t begin = range.begin + random_word(seed, step, first_row + row) % offsets;
    fill(begin, inputs.subspan(row * context, context), targets.subspan(row * context, context));
  }
}

int64_t Dataset::window_count(TokenRange range) const {
  return range.size() == 0 ? 0 : static_cast<int64_t>((range.size() - 1) / static_cast<uint64_t>(context_));
}

void Dataset::windows(TokenRange range, int64_t first, std::span<int32_t> inputs, std::span<int32_t> targets) const {
  const size_t context = static_cast<size_t>(context_);
  assert(inputs.size() == targets.size() && inputs.size() % context == 0);
  assert(first >= 0 && first + static_cast<int64_t>(inputs.size() / context) <= window_count(range));
  for (size_t row = 0; row < inputs.size() / context; ++row) {
    const uint64_t begin = range.begin + (static_cast<uint64_t>(first) + row) * context;
    fill(begin, inputs.subspan(row * context, context), targets.subspan(row * context, context));
  }
}

uint64_t Dataset::text_bytes(std::span<const int32_t> targets) const {
  uint64_t bytes = 0;
  for (const int32_t token : targets)
    if (token != tokenizer_->end_of_text()) bytes += tokenizer_->token_bytes(token).size();
  return bytes;
}

}  // namespace sporkle::train
