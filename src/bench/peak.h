// What a device can do at most, measured on the spot: arithmetic that stays in registers, and memory that is read and
// copied, through kernels of our own. percent_of_peak is against these.
#pragma once

#include "bench/case.h"
#include "bench/measure.h"

namespace sporkle::bench {

enum class PeakEffort {
  full,   // arrays larger than the last-level cache, until twelve samples bring no more: a few seconds
  brief,  // arrays of 128 MiB, until four samples bring no more: a second; a larger cache shows as a bandwidth
};

// For the setting's device, threads and dtype; measured once in a process and kept. The best of several samples: a peak
// is what is possible. The outputs are poisoned first and checked at the end. Thread-safe.
Result<Peak> peak_of(const Setting& setting, PeakEffort effort = PeakEffort::full);

}  // namespace sporkle::bench
