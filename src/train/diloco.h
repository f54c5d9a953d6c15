// DiLoCo's outer step (arXiv 2311.08105): each worker runs inner steps from the same parameters; its pseudo-gradient is
// start - end; their token-weighted mean goes through SGD with Nesterov momentum. Everything is f32 in a stated order,
// so an aggregator can be audited bit for bit. Not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"

namespace sporkle::train {

// pseudo_gradient[i] = start[i] - end[i]. The three have one size.
void pseudo_gradient(std::span<const float> start, std::span<const float> end, std::span<float> result);

// sqrt(sum of squares), summed in f64 in index order.
double l2_norm(std::span<const float> values);

// The weighted mean sum_i (w_i / W) g_i, where W is known beforehand. Callers add in canonical peer order: the order of
// addition is part of the result.
class WeightedMean {
 public:
  WeightedMean(size_t count, uint64_t total_weight) : sum_(count, 0.0f), total_weight_(total_weight) {}
  // `values.size()` is the count; `weight` is this contributor's tokens.
  void add(std::span<const float> values, uint64_t weight);
  std::span<const float> mean() const { return sum_; }

 private:
  std::vector<float> sum_;
  uint64_t total_weight_;
};

struct OuterStep {
  float learning_rate = 1.0f;
  float momentum = 0.0f;  // 0 with learning rate 1 is plain averaging of parameters
};

// SGD with Nesterov momentum as in Sutskever et al. 2013, in the form usual for deep learning:
//   m = momentum * m + g;  delta = -learning_rate * (g + momentum * m)
class OuterOptimizer {
 public:
  explicit OuterOptimizer(size_t count) : momentum_(count, 0.0f) {}

  // Writes what is to be added to the parameters. Learning rate and momentum may change from step to step; while
  // momentum is 0 the buffer holds the last gradient, so that switching it on starts from there.
  void step(std::span<const float> gradient, OuterStep how, std::span<float> delta);

  std::span<const float> momentum() const { return momentum_; }
  // For resuming; invalid_argument when the size differs.
  Status restore(std::span<const float> momentum);

 private:
  std::vector<float> momentum_;
};

}  // namespace sporkle::train
