// The learning rate over a run: linear warm-up, then a cosine down to a minimum (Loshchilov and Hutter, SGDR, 2017).
#pragma once

#include <cstdint>

namespace sporkle::nn {

struct LearningRateSchedule {
  double peak = 1e-3;
  double minimum = 1e-4;
  double warmup_steps = 0;
  double total_steps = 1;

  // The rate of step `step` (from 0; fractions are allowed, for workers that stride through the schedule). Computed by
  // IEEE operations alone, so every machine has the same bits.
  double at(double step) const;
};

// cos(pi x) for 0 <= x <= 1, to 1e-15.
double cos_pi(double x);

}  // namespace sporkle::nn
