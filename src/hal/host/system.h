// What the operating system says about this machine and about how much of it this process may use. Thread-safe.
#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"

namespace sporkle::hal {

// The processor's name for people, for example "AMD EPYC 9R14"; "unknown processor" when the system does not say.
std::string processor_name();

// Cores that this process may use: its CPU affinity, bounded by the quota of its control group. At least 1.
int usable_cores();

// How many threads kernels run on: `requested`, or with 0 $SPORKLE_THREADS, or with that unset usable_cores(). However
// many are asked for, $SPORKLE_RESERVE_CORES of the usable cores are left alone. invalid_argument outside 1 to
// kMostThreads, or when no core is left.
inline constexpr int kMostThreads = 1024;
Result<int> thread_count(int requested);

// Lets other programs go first: 0 to kMostNice, as nice(1) counts. Of the calling thread and those it starts later, so
// call it before anything computes. Never raises the priority.
inline constexpr int kMostNice = 19;
Status set_nice_level(int level);

// Physical memory, bounded by the limit of this process's control group.
uint64_t usable_memory_bytes();

}  // namespace sporkle::hal
