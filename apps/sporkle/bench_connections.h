// `sporkle bench connections`: what many connections cost one process.
#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "bench/record.h"

namespace sporkle::app {

// `count` mutual-TLS connections over loopback from one other process to a server here. Records: "memory" (KiB of each
// connection, in the server's process), "accept" (connections a second), and "p50" and "p99" (ms, of a call, 250 at
// once). To be called before the process has started threads.
Result<std::vector<bench::Record>> bench_connections(int64_t count);

}  // namespace sporkle::app
