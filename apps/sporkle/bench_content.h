// `sporkle bench content`: a file to several nodes, by a swarm and from one source.
#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "bench/record.h"

namespace sporkle::app {

struct ContentBenchOptions {
  int64_t megabytes = 210;    // of 10^6 bytes
  int64_t nodes = 8;          // that fetch it, all at once
  int64_t uplink_mbit = 100;  // of every node, the source's too; 0: no limit
};

// All nodes are in this process, over loopback; the uplinks are limited by the sender's own token buckets. One
// record: seconds until the last node has all of it by a swarm, beside the same from one source by the mesh's calls.
// Pieces are checked as they arrive, and every file is compared at the end.
Result<std::vector<bench::Record>> bench_content(const ContentBenchOptions& options);

}  // namespace sporkle::app
