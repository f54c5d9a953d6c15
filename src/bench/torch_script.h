// torch_rival.py's text, embedded at build time.
#pragma once

#include <string_view>

namespace sporkle::bench {

std::string_view torch_script();

}  // namespace sporkle::bench
