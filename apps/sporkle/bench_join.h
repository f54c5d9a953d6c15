// `sporkle bench join`: how long a node takes from process start to ready for work.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "base/status.h"
#include "bench/record.h"

namespace sporkle::app {

struct JoinBenchOptions {
  int64_t count = 20;                       // joins of each kind, at least 1
  int64_t round_trip_ms = 80;               // of the second kind; 0: none of it
  std::function<void(double)> on_progress;  // the share that is done; may be empty
};

// Starts coordinators here and joins them, one process each time: over loopback, by a link with an address; then, with
// the machine's own delay between both, by a link that has none, so that the address comes from what the node
// remembers. Records in ms: the median and the 99th percentile of each kind's times.
Result<std::vector<bench::Record>> bench_join(const JoinBenchOptions& options);

}  // namespace sporkle::app
