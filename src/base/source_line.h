// Where in somebody's source code something was asked for, as text: "src/nn/gpt.cc:120". Thread-safe.
#pragma once

#include <source_location>
#include <string>

namespace sporkle {

// The file and the line. Files of Sporkle itself are named from the root of its source tree, others as the compiler was
// given them. Empty for a location that nobody captured (a default std::source_location).
std::string source_line(const std::source_location& location);

}  // namespace sporkle
