#include "bench/step_judge.h"

#include <cmath>

#include "bench/judge.h"

namespace sporkle::bench {

Status beyond(const std::string& what, double found, double expected) {
  return internal_error(what + " is " + std::to_string(found) + " where float64 gives " + std::to_string(expected));
}

Status judge_adamw(std::span<const SteppedParameter> parameters, const train::OptimizationConfig& optimization,
                   double learning_rate, std::span<const double> before, double clip, std::vector<double>* then,
                   std::vector<double>* gradient) {
  size_t flat = 0;
  for (const SteppedParameter& p : parameters) {
    const double keep = p.decay ? 1 - learning_rate * optimization.weight_decay : 1;
    for (size_t i = 0; i < p.value.size(); ++i, ++flat) {
      const double g = p.first[i] / (1 - optimization.beta1);
      const double value = before[flat] * keep - learning_rate * g / (std::abs(g) + optimization.epsilon);
      const double square = (1 - optimization.beta2) * g * g;
      const std::string name = "element " + std::to_string(i) + " of " + p.name;
      if (is_poison(p.value[i])) return internal_error(name + " is not written by a step");
      if (!(std::abs(p.value[i] - value) <= 1e-6 * std::abs(value) + 1e-5 * learning_rate))
        return beyond(name + " after a step", p.value[i], value);
      if (!(std::abs(p.second[i] - square) <= 1e-5 * square + 1e-37))
        return beyond(name + "'s second moment", p.second[i], square);
      then->push_back(p.value[i]);
      gradient->push_back(g / clip);
    }
  }
  return {};
}

Status judge_gradient(const std::function<double(const std::vector<double>&)>& loss_at,
                      const std::vector<double>& before, const std::vector<double>& gradient, double norm,
                      double distance, double limit) {
  std::vector<double> above = before, below = before;
  for (size_t i = 0; i < before.size(); ++i) {
    above[i] += distance * gradient[i] / norm;
    below[i] -= distance * gradient[i] / norm;
  }
  const double slope = (loss_at(above) - loss_at(below)) / (2 * distance);
  return std::abs(norm / slope - 1) <= limit ? Status() : beyond("the gradient's norm", norm, slope);
}

}  // namespace sporkle::bench
