#include "apps/sporkle/version.h"

namespace sporkle::app {

std::string_view version() { return SPORKLE_VERSION; }

}  // namespace sporkle::app
