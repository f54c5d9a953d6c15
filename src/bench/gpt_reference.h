// A GPT-2 model's loss in float64, by plain C++ that shares nothing with the model under test.
#pragma once

#include <cstdint>
#include <span>

#include "base/thread_pool.h"

namespace sporkle::bench {

struct GptProblem {
  int64_t layers = 1, heads = 1, width = 1, context = 1, vocab_size = 1;
  double layer_norm_epsilon = 1e-5;

  int64_t parameter_count() const {
    return (vocab_size + context) * width + layers * (12 * width * width + 13 * width) + 2 * width;
  }
};

// Mean cross-entropy in nats a token. `parameters`: all of them in the order of nn::Gpt::parameters(). tokens and
// targets: rows x context, every ID below vocab_size.
double gpt_loss(ThreadPool& pool, const GptProblem& problem, std::span<const double> parameters,
                std::span<const int32_t> tokens, std::span<const int32_t> targets);

}  // namespace sporkle::bench
