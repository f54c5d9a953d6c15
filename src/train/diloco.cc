#include "train/diloco.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <string>

namespace sporkle::train {

void pseudo_gradient(std::span<const float> start, std::span<const float> end, std::span<float> result) {
  assert(start.size() == end.size() && start.size() == result.size());
  for (size_t i = 0; i < result.size(); ++i) result[i] = start[i] - end[i];
}

double l2_norm(std::span<const float> values) {
  double sum = 0.0;
  for (const float value : values) sum += static_cast<double>(value) * static_cast<double>(value);
  return std::sqrt(sum);
}

void WeightedMean::add(std::span<const float> values, uint64_t weight) {
  assert(values.size() == sum_.size() && weight <= total_weight_ && total_weight_ > 0);
  const float share = static_cast<float>(static_cast<double>(weight) / static_cast<double>(total_weight_));
  for (size_t i = 0; i < sum_.size(); ++i) sum_[i] += share * values[i];
}

void OuterOptimizer::step(std::span<const float> gradient, OuterStep how, std::span<float> delta) {
  assert(gradient.size() == momentum_.size() && delta.size() == momentum_.size());
  for (size_t i = 0; i < momentum_.size(); ++i) {
    momentum_[i] = how.momentum * momentum_[i] + gradient[i];
    delta[i] = -how.learning_rate * (gradient[i] + how.momentum * momentum_[i]);
  }
}

Status OuterOptimizer::restore(std::span<const float> momentum) {
  if (momentum.size() != momentum_.size())
    return invalid_argument("outer momentum of " + std::to_string(momentum.size()) + " values where " +
                            std::to_string(momentum_.size()) + " belong");
  std::copy(momentum.begin(), momentum.end(), momentum_.begin());
  return {};
}

}  // namespace sporkle::train
