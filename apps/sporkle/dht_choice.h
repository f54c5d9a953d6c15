// DhtChoice: what a command's options say of the DHT. It is used when some node of it is known: from --dht-bootstrap,
// or from the last time. A plain value.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "apps/sporkle/cli.h"
#include "base/status.h"
#include "mesh/dht.h"

namespace sporkle::app {

struct DhtChoice {
  bool off = false;
  std::vector<std::string> bootstrap;  // "host:port"

  // Adds --dht-bootstrap and --no-dht.
  void add_options(Command& command);
  // Whether there is anybody to ask. Looks for a file, no more.
  bool wanted() const;
  // invalid_argument for a bootstrap node that is not host:port.
  Result<mesh::DhtOptions> options(uint16_t port) const;
};

}  // namespace sporkle::app
