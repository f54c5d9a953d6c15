#include "train/evaluate.h"

#include <algorithm>
#include <vector>

namespace sporkle::train {

Result<Evaluation> evaluate(LanguageModel& model, const Dataset& dataset, TokenRange range, int64_t max_windows,
                            int64_t rows, const EvaluationProgress& progress) {
  constexpr double kLog2E = 1.4426950408889634;
  const int64_t available = dataset.window_count(range);
  const int64_t total = max_windows > 0 ? std::min(max_windows, available) : available;
  if (total == 0)
    return invalid_argument("the text is too short to evaluate: it has no " + std::to_string(dataset.context() + 1) +
                            " tokens in a row");
  const int64_t length = dataset.context();
  std::vector<int32_t> inputs, targets;
  Evaluation result;
  double sum = 0;
  for (int64_t done = 0; done < total;) {
    const int64_t count = std::min(rows, total - done);
    inputs.resize(static_cast<size_t>(count * length));
    targets.resize(inputs.size());
    for (int64_t row = 0; row < count; ++row) {
      const int64_t window = (done + row) * available / total;
      const auto at = static_cast<size_t>(row * length), size = static_cast<size_t>(length);
      dataset.windows(range, window, std::span(inputs).subspan(at, size), std::span(targets).subspan(at, size));
    }
    SPORKLE_ASSIGN_OR_RETURN(const double loss, model.loss({inputs, targets, count}));
    sum += loss * static_cast<double>(targets.size());
    result.tokens += targets.size();
    result.bytes += dataset.text_bytes(targets);
    done += count;
    if (progress && !progress(done, total)) return Status(Code::cancelled, "the evaluation was stopped");
  }
  result.loss = sum / static_cast<double>(result.tokens);
  result.nats_per_byte = sum / static_cast<double>(std::max<uint64_t>(result.bytes, 1));
  result.bits_per_byte = result.nats_per_byte * kLog2E;
  return result;
}

}  // namespace sporkle::train
