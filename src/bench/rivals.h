// The rivals by name, each opened at run time.
//
//   OpenBLAS, BLIS   through CBLAS, in a process of their own
//   PyTorch          torch_rival.py with $SPORKLE_PYTHON, else python3, in a process of its own
//   memcpy           the C library's, in this process, its range split over the threads
//   read             reads as many bytes as the case must, over and over, its range split over the threads
#pragma once

#include <filesystem>
#include <string_view>
#include <vector>

#include "bench/case.h"
#include "bench/measure.h"

namespace sporkle::bench {

struct RivalPrograms {
  // Runs serve_blas: the library's name follows as one more argument.
  std::filesystem::path blas_program;
  std::vector<std::string> blas_arguments;
};

// `subject` is prepared and outlives the challenger. Where the rival is not there or cannot do this, the challenger
// says why ("not found: ..." with what to install).
Challenger open_challenger(std::string_view name, const Case& subject, const Setting& setting,
                           const RivalPrograms& programs);

// The names to run against: `wanted` when there are any, "none" for none, else the case's own choice.
// invalid_argument names those that the case has.
Result<std::vector<std::string>> choose_rivals(const CaseKind& kind, const std::vector<std::string>& wanted);

}  // namespace sporkle::bench
