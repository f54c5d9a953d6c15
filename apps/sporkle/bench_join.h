// `sporkle bench join`: how long a node takes from process start to ready for work.
#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "bench/record.h"

namespace sporkle::app {

// Starts a coordinator here and joins it `count` times (at least 1) over loopback, one process each. Two records, in
// ms: the median and the 99th percentile of the times.
Result<std::vector<bench::Record>> bench_join(int64_t count);

}  // namespace sporkle::app
