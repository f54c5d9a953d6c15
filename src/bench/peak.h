// What a device can do at most, measured on the spot: arithmetic that stays in registers, and memory that is read and
// copied, through kernels of our own. percent_of_peak is against these.
#pragma once

#include "bench/case.h"
#include "bench/measure.h"

namespace sporkle::bench {

// For the setting's device, threads and dtype; measured once in a process (a second or two) and kept. The best of
// several samples: a peak is what is possible. Every output is checked. Thread-safe.
Result<Peak> peak_of(const Setting& setting);

}  // namespace sporkle::bench
