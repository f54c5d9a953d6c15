// Time in seconds, for measurements.
#pragma once

namespace sporkle {

// A steady clock: never goes back; has no meaning outside this process. Thread-safe.
double now_s();

// Since the kernel started this process, before its libraries were loaded; to 10 ms. Where the system does not say,
// since the first call.
double process_age_s();

}  // namespace sporkle
