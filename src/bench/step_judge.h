// Judges a training step in float64, whatever the model.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "train/config.h"

namespace sporkle::bench {

// internal_error: "WHAT is FOUND where float64 gives EXPECTED".
Status beyond(const std::string& what, double found, double expected);

// A parameter and its moments after the first step from moments of zero.
struct SteppedParameter {
  std::string name;
  bool decay;
  std::span<const float> value, first, second;
};

// AdamW's change of every element, from the gradient that its first moment holds. `before`: all parameters one after
// the other; clip: the factor of gradients. Appends the values as float64 has them, and the gradients before clipping.
Status judge_adamw(std::span<const SteppedParameter> parameters, const train::OptimizationConfig& optimization,
                   double learning_rate, std::span<const double> before, double clip, std::vector<double>* then,
                   std::vector<double>* gradient);

// Whether the slope of the loss along the gradient is the gradient's norm, within `limit`: two evaluations `distance`
// to either side.
Status judge_gradient(const std::function<double(const std::vector<double>&)>& loss_at,
                      const std::vector<double>& before, const std::vector<double>& gradient, double norm,
                      double distance, double limit);

}  // namespace sporkle::bench
