// `sporkle bench rpc`: calls, latency, streaming and connecting of the mesh, beside gRPC under mutual TLS.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/status.h"
#include "bench/record.h"

namespace sporkle::app {

struct RpcBenchOptions {
  int64_t rounds = 9;                            // ours and the rival's side by side in each
  bool against = true;                           // measure gRPC too, where the program grpc_rival was built
  std::function<void(double done)> on_progress;  // from 0 to 1; may be empty
};

// Client and server of both are in one process each and talk over loopback under mutual TLS 1.3. Records: "calls" (a
// second, 64 bytes each way, 16 in flight), "p50" and "p99" (us, one call in flight), "stream" (GB/s, 256 MiB that do
// not compress, to the server, on a stream, written in pieces of 1 MiB), "message" (GB/s, the same as one message,
// beside gRPC's stream) and "connect" (ms, median, until the first answer). Every answer is checked.
Result<std::vector<bench::Record>> bench_rpc(const RpcBenchOptions& options);

}  // namespace sporkle::app
