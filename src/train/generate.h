// Text from a model, one token after the other, with a cache of keys and values. One thread at a time for each model.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "base/status.h"
#include "train/language_model.h"

namespace sporkle::train {

struct SamplingOptions {
  double temperature = 0.8;  // 0: always the likeliest token
  int64_t top_k = 0;         // sample among so many likeliest tokens; 0: all
  double top_p = 1.0;        // sample among the likeliest tokens that together have this probability
  uint64_t seed = 1;
};

// invalid_argument names the option that is out of range.
Status check_sampling(const SamplingOptions& options);

// One token from logits [vocab_size]; `position` counts the draws, so that equal (seed, position) draw alike.
int32_t sample(std::span<const float> logits, const SamplingOptions& options, uint64_t position);

// Continues `prompt` (token IDs below the vocabulary's size; empty: from nothing but `first_token`) by up to max_tokens
// tokens, calling `emit` with each; it returns false to stop. Beyond the model's context the oldest half is forgotten.
Status generate(LanguageModel& model, std::span<const int32_t> prompt, int32_t first_token, int64_t max_tokens,
                const SamplingOptions& options, const std::function<bool(int32_t token)>& emit);

}  // namespace sporkle::train
