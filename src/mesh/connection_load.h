// For tests and benchmarks: a server in this process with many idle connections from another.
#pragma once

#include <cstddef>

#include "base/status.h"

namespace sporkle::mesh {

struct ConnectionLoad {
  size_t connections = 0;
  double handshakes_per_s = 0;
  double bytes_each = 0;  // what this process's resident memory grew by; the kernel's buffers are not in it
  double heartbeat_p50_ms = 0;
  double heartbeat_p99_ms = 0;
};

// Opens `count` mutual-TLS connections over loopback, has every one make a call (batches of 250 at once), and measures.
// Forks, so it must be called while this process has one thread. unavailable when the limit of open descriptors, which
// it raises as far as it may, does not allow so many.
Result<ConnectionLoad> measure_connections(size_t count);

}  // namespace sporkle::mesh
