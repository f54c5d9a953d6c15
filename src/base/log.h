// Leveled logging to standard error, and the SPORKLE_DEBUG ladder. Thread-safe; a line is written whole.
//
//   SPORKLE_DEBUG=1  every launch of a kernel: its name, its key, how often it was launched, the line that asked for it
//   SPORKLE_DEBUG=2  and timings: of launches, with FLOP/s and bytes/s; of planning, compiling and loading
//   SPORKLE_DEBUG=3  and the schedule of every kernel that is new to the process
//   SPORKLE_DEBUG=4  and its IR, as it was traced and after every lowering pass
//   SPORKLE_DEBUG=5  and the generated source (LLVM IR)
//   SPORKLE_DEBUG=6  and the machine code as assembly
//
// From 4 on compiled kernels on disk are not used, so that every kernel goes through what is printed.
#pragma once

#include <string_view>

namespace sporkle {

enum class LogLevel { debug, info, warning, error, off };

// Lines below this level are dropped. The default is `warning`, or `info` when SPORKLE_DEBUG >= 1.
void set_log_level(LogLevel level);
LogLevel log_level();
void log(LogLevel level, std::string_view component, std::string_view message);

// The number in SPORKLE_DEBUG, 0 when unset; read once.
int debug_level();

}  // namespace sporkle
