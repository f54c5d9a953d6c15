#include "train/generate.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "tensor/random.h"

namespace sporkle::train {

Status check_sampling(const SamplingOptions& o) {
  if (!(o.temperature >= 0 && o.temperature <= 100))
    return invalid_argument("temperature must be from 0 to 100, not " + std::to_string(o.temperature));
  if (o.top_k < 0) return invalid_argument("top-k must be 0 (all tokens) or more, not " + std::to_string(o.top_k));
  if (!(o.top_p > 0 && o.top_p <= 1))
    return invalid_argument("top-p must be above 0 and at most 1, not " + std::to_string(o.top_p));
  return {};
}

int32_t sample(std::span<const float> logits, const SamplingOptions& options, uint64_t position) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  // Ties go to the lower ID, so that the order is the same everywhere.
  const auto likelier = [&](int32_t a, int32_t b) {
    const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  };
  if (options.temperature == 0) return *std::min_element(order.begin(), order.end(), likelier);
  std::sort(order.begin(), order.end(), likelier);
  if (options.top_k > 0 && static_cast<size_t>(options.top_k) < order.size())
    order.resize(static_cast<size_t>(options.top_k));
  const double top = logits[static_cast<size_t>(order[0])];
  std::vector<double> weights;
  double total = 0;
  for (const int32_t id : order) {
    weights.push_back(std::exp((logits[static_cast<size_t>(id)] - top) / options.temperature));
    total += weights.back();
  }
  if (options.top_p < 1) {
    double kept = 0;
    size_t count = 0;
    while (count < weights.size() && kept < options.top_p * total) kept += weights[count++];
    weights.resize(count);
    total = kept;
  }
  const tensor::Philox random = tensor::philox2x32(
      static_cast<uint32_t>(position), static_cast<uint32_t>(options.seed >> 32), static_cast<uint32_t>(options.seed));
  const double uniform = (random.low + random.high * 0x1p-32) * 0x1p-32;
  double left = uniform * total;
  for (size_t i = 0; i < weights.size(); ++i) {
    left -= weights[i];
    if (left < 0) return order[i];
  }
  return order[weights.size() - 1];
}

Status generate(LanguageModel& model, std::span<const int32_t> prompt, int32_t first_token, int64_t max_tokens,
                const SamplingOptions& options, const std::function<bool(int32_t)>& emit) {
  SPORKLE_RETURN_IF_ERROR(check_sampling(options));
  const auto context = static_cast<size_t>(model.shape().context);
  const auto vocabulary = static_cast<int32_t>(model.shape().vocab_size);
  std::vector<int32_t> history(prompt.begin(), prompt.end());
  if (history.empty()) history.push_back(first_token);
  for (const int32_t id : history)
    if (id < 0 || id >= vocabulary)
      return invalid_argument("the prompt has token " + std::to_string(id) + ", and the model knows only " +
                              std::to_string(vocabulary) + " tokens; does the tokenizer belong to this model?");
  nn::Decoder::Cache cache;
  size_t fed = 0;  // tokens of history that the cache holds
  for (int64_t produced = 0; produced < max_tokens; ++produced) {
    if (history.size() - fed + static_cast<size_t>(cache.length) > context) {
      // The window is full (or the prompt too long): start again from its last half.
      cache = {};
      fed = history.size() - std::max<size_t>(context / 2, 1);
    }
    const std::span<const int32_t> fresh = std::span(history).subspan(fed);
    const tensor::Tensor tokens =
        tensor::from_host<int32_t>(model.context(), fresh, {1, static_cast<int64_t>(fresh.size())});
    SPORKLE_ASSIGN_OR_RETURN(const std::vector<float> logits, model.decoder().extend(tokens, cache).to_host<float>());
    fed = history.size();
    const int32_t next = sample(logits, options, static_cast<uint64_t>(produced));
    history.push_back(next);
    if (!emit(next)) break;
  }
  return {};
}

}  // namespace sporkle::train
