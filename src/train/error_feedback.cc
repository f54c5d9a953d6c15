#include "train/error_feedback.h"

#include <algorithm>
#include <string>
#include <utility>

namespace sporkle::train {

Status ErrorFeedback::restore(std::span<const float> residual) {
  if (residual.size() != residual_.size())
    return invalid_argument("error feedback of " + std::to_string(residual.size()) + " values where " +
                            std::to_string(residual_.size()) + " belong");
  std::copy(residual.begin(), residual.end(), residual_.begin());
  discard();
  return {};
}

void ErrorFeedback::reset() {
  std::fill(residual_.begin(), residual_.end(), 0.0f);
  discard();
}

Result<std::vector<std::byte>> ErrorFeedback::encode(std::span<const float> update, Compression compression) {
  discard();
  if (update.size() != residual_.size())
    return invalid_argument("an update of " + std::to_string(update.size()) + " values where " +
                            std::to_string(residual_.size()) + " belong");
  std::vector<float> sum(update.size());
  for (size_t i = 0; i < sum.size(); ++i) sum[i] = residual_[i] + update[i];
  SPORKLE_ASSIGN_OR_RETURN(message_, compress(compression, sum));
  sum_ = std::move(sum);
  return message_;
}

void ErrorFeedback::commit() {
  if (sum_.empty()) return;
  std::vector<float> sent(sum_.size());
  // The message is this object's own, so it parses.
  if (decompress(message_, sent).ok())
    for (size_t i = 0; i < sent.size(); ++i) residual_[i] = sum_[i] - sent[i];
  discard();
}

void ErrorFeedback::fold() {
  if (!sum_.empty()) residual_.swap(sum_);
  discard();
}

void ErrorFeedback::discard() {
  sum_ = {};
  message_ = {};
}

}  // namespace sporkle::train
