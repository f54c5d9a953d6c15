// `sporkle bench gemm`: the kernel language's matrix product beside OpenBLAS, outputs checked in full first.
#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"

namespace sporkle::app {

struct GemmBenchOptions {
  int64_t m = 1024, n = 1024, k = 1024;
  int64_t threads = 1;
  int64_t rounds = 9;
};

struct GemmBenchResult {
  double gflops = 0;        // median
  double rival_gflops = 0;  // median; 0 when OpenBLAS is not there
  double ratio = 0;         // median of the rounds' ratios
  double ratio_min = 0, ratio_max = 0;
  double rival_max_relative_error = 0;
  std::string rival;  // "OpenBLAS 0.3.21 ...", or why there is none
};

// Every element of our product must equal the plain chain of fused multiply-adds bit for bit; internal when one does
// not. f32, numerics strict. Rounds alternate between the two; both read the same random matrices.
Result<GemmBenchResult> bench_gemm(const GemmBenchOptions& options);

}  // namespace sporkle::app
