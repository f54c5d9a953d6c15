// The arguments of a kernel as a user writes them for `sporkle kernel run`: buffers as "x=random:1024", scalars as
// "n=1024". Every mistake is explained with the names that the kernel has. Thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "ir/kernel.h"

namespace sporkle::app {

struct KernelArguments {
  std::vector<std::vector<std::byte>> buffers;  // in the kernel's order
  std::vector<bool> initialised;                // false: made with "empty", without values
  std::vector<uint64_t> scalars;                // bits
};

// Buffers are given as NAME=random:COUNT (from -1 to 1; integers from 0 to 99), zeros:COUNT, ones:COUNT, index:COUNT
// (0, 1, 2 ...), empty:COUNT (no values), numbers with commas between them, or a file of raw elements.
Result<KernelArguments> parse_kernel_arguments(const ir::Kernel& kernel, const std::vector<std::string>& inputs,
                                               const std::vector<std::string>& scalars, uint64_t seed);

// The number that an element's bits stand for, as text that reads back: "0.5", "-3", "true".
std::string element_text(ir::DType type, uint64_t bits);
// One element of a buffer's memory.
uint64_t element_bits(ir::DType type, const std::byte* element);

}  // namespace sporkle::app
