// OpenBLAS's and BLIS's side of the talk in process_rival.h: opens the library and multiplies on demand.
#pragma once

#include <iosfwd>
#include <string_view>

#include "base/status.h"

namespace sporkle::bench {

// `name`: "OpenBLAS" or "BLIS". Answers the requests on `in` until it ends; errors become answers. What a hidden
// command of `sporkle` runs in a process of its own.
Status serve_blas(std::string_view name, std::istream& in, std::ostream& out);

}  // namespace sporkle::bench
