// How well a model predicts a text. One thread at a time for each model.
#pragma once

#include <cstdint>
#include <functional>

#include "base/status.h"
#include "train/dataset.h"
#include "train/language_model.h"

namespace sporkle::train {

struct Evaluation {
  double loss = 0;           // nats a token
  double bits_per_byte = 0;  // of the text that the tokens stand for
  double nats_per_byte = 0;
  uint64_t tokens = 0;  // predicted
  uint64_t bytes = 0;   // of text behind them
};

// Called now and then with the windows done and their total; false stops the evaluation (cancelled).
using EvaluationProgress = std::function<bool(int64_t done, int64_t total)>;

// Mean over windows of `range`, `rows` at a time: all of them, or `max_windows` spread evenly over the range (0: all).
// The same windows every time, so that two models can be compared.
Result<Evaluation> evaluate(LanguageModel& model, const Dataset& dataset, TokenRange range, int64_t max_windows,
                            int64_t rows, const EvaluationProgress& progress = {});

}  // namespace sporkle::train
