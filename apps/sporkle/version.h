// Sporkle's version, as CMakeLists.txt states it.
#pragma once

#include <string_view>

namespace sporkle::app {

std::string_view version();

}  // namespace sporkle::app
