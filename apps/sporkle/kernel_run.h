// `sporkle kernel run`: one kernel from a file, executed by the interpreter with every access checked, and on a device.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "ir/text.h"

namespace sporkle::app {

struct KernelRunOptions {
  std::string file, device = "cpu", schedule;
  std::vector<std::string> inputs, scalars;  // see kernel_arguments.h
  std::vector<std::string> watches;          // "%2@i=3,j=0"
  std::vector<std::string> prints;           // "y:16"
  int64_t seed = 1;
  int64_t max_steps = 100'000'000;
  int64_t watch_limit = 100;
  bool interpret = false, unchecked = false;
};

// The kernel in a file; errors carry the file's name and the line.
Result<ir::ParsedText> read_kernel(const std::string& file);

// Prints the watched values, the results, and whether the device's equal the interpreter's; internal when they do not.
Status run_kernel(const KernelRunOptions& options);

}  // namespace sporkle::app
