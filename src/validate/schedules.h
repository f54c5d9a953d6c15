// The same call under many schedules: strict results must not depend on them.
#pragma once

#include "validate/check.h"

namespace sporkle::validate {

// Runs the call on every subject `count` times, each kernel under a schedule drawn from its lower::ScheduleSpace, and
// compares with the interpreter's bits. Outcome::schedules is 0 for an operation whose kernels have no schedules.
Outcome check_schedules(Bench& bench, const DrawnCall& drawn, tensor::Draw& draw, int count);

// The same on the last subject alone, once for every choice of every item of its kernels' schedules: each schedule
// differs from the usual one in one item.
Outcome check_schedule_items(Bench& bench, const DrawnCall& drawn);

}  // namespace sporkle::validate
