#include "nn/schedule.h"

#include <algorithm>

namespace sporkle::nn {

double cos_pi(double x) {
  // The C library's cos may differ in the last bit from machine to machine; this series does not.
  if (x > 0.5) return -cos_pi(1.0 - x);
  const double t = 3.14159265358979323846 * x, square = t * t;
  double term = 1.0, sum = 1.0;
  for (int k = 1; k <= 12; ++k) {
    term *= -square / static_cast<double>((2 * k - 1) * (2 * k));
    sum += term;
  }
  return sum;
}

double LearningRateSchedule::at(double step) const {
  if (step < warmup_steps) return peak * (step + 1.0) / (warmup_steps + 1.0);
  const double span = std::max(total_steps - warmup_steps, 1.0);
  const double progress = std::clamp((step - warmup_steps) / span, 0.0, 1.0);
  return minimum + (peak - minimum) * 0.5 * (1.0 + cos_pi(progress));
}

}  // namespace sporkle::nn
