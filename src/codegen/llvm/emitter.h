// LLVM IR text from a lowered kernel.
//
// One pass over the statements. A value is emitted once, in the outermost loop where all it depends on is known (so
// invariants move out of loops by construction), and reductions over the same range that stand beside each other share
// one loop (that is how a register tile of GEMM comes about). No fast-math flag and no fmuladd is ever emitted: strict
// numerics depends on it.
#pragma once

#include <string>

#include "base/status.h"
#include "codegen/cpu_target.h"
#include "lower/lower.h"

namespace sporkle::codegen::llvm {

// The module's text for a processor, with the symbols of codegen/cpu_abi.h.
Result<std::string> emit(const lower::Lowered& lowered, const CpuTarget& target);

}  // namespace sporkle::codegen::llvm
