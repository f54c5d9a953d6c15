// `sporkle bench allreduce`: processes of this machine add up their arrays over loopback, beside PyTorch's Gloo.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "base/status.h"
#include "bench/record.h"

namespace sporkle::app {

struct AllreduceBenchOptions {
  int64_t rounds = 9;                            // ours and the rival's side by side in each
  int64_t processes = 4;                         // at least 2
  int64_t mebibytes = 64;                        // of f32, in each process
  bool against = true;                           // measure Gloo too, with $SPORKLE_PYTHON, else python3
  std::function<void(double done)> on_progress;  // from 0 to 1; may be empty
};

// Both in plain text over TCP. Records: "64MiBx4" (GB/s: an array's bytes over the time until all have the sum) and
// "64MiBx4:killed" (ms: the same with one process killed in the middle, until the last survivor has the sum of the
// survivors; no rival goes on then). Every element is checked before anything is timed.
Result<std::vector<bench::Record>> bench_allreduce(const AllreduceBenchOptions& options);

}  // namespace sporkle::app
