// Leveled logging to standard error, and the SPORKLE_DEBUG ladder. Thread-safe; a line is written whole.
//
//   SPORKLE_DEBUG=1  what ran and how long     2  kernels compiled and loaded   3  fused kernels and their IR
//   SPORKLE_DEBUG=4  every lowering pass       5  generated LLVM IR             6  machine code, every launch
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
