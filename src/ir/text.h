// The text form of a kernel; print and parse are inverses (up to node numbering). Thread-safe.
#pragma once

#include <string>
#include <string_view>

#include "base/status.h"
#include "ir/kernel.h"

namespace sporkle::ir {

// Deterministic: equal kernels print equal text whatever order they were built in, so the text is what caches hash.
std::string print(const Kernel& kernel);

// Parses and verifies. Errors carry the line and what was expected. Bounded: input over 16 MiB or nested deeper than 256
// is refused.
Result<Kernel> parse(std::string_view text);

}  // namespace sporkle::ir
