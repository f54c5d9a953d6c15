// Sporkle's version, as CMakeLists.txt states it, and the commit that the program was built from.
#pragma once

#include <string_view>

namespace sporkle::app {

std::string_view version();
// "1a2b3c4d5e6f", with "-modified" where files had changed; empty where git could not tell.
std::string_view built_from();

}  // namespace sporkle::app
