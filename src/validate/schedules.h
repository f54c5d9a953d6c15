// The same call under many schedules: strict results must not depend on them.
#pragma once

#include "validate/check.h"

namespace sporkle::validate {

// Whether an operation's kernels are among those whose schedules matter, and which stand for the others.
bool has_scheduled_kernels(std::string_view operation);

// Runs the call on every subject `count` times, each kernel under a schedule drawn from its lower::ScheduleSpace, and
// compares with the interpreter's bits.
Outcome check_schedules(Bench& bench, const DrawnCall& drawn, tensor::Draw& draw, int count);

}  // namespace sporkle::validate
