// Addresses to listen on, as users write them.
#pragma once

#include <string>

#include "base/status.h"
#include "mesh/server.h"

namespace sporkle::app {

// "HOST:PORT" into the options' host and port; port 0 takes any free one, and 0.0.0.0 stands for every address, IPv6
// included. invalid_argument when it is not that.
Status parse_listen(const std::string& text, mesh::ServerOptions* server);

}  // namespace sporkle::app
