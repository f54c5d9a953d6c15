// RunLink: what a researcher hands out so that others can join a run. Like a magnet link it carries a key and hints:
//
//   sporkle://<coordinator's node ID>[@host:port[,host:port...]]/[?name=value[&name=value...]]
//
// The key is what is trusted, the addresses only say where to try. A link without any needs another source of them: the
// LAN, a record, what this machine remembers. IPv6 addresses stand in brackets. Unknown parameters are kept, so that an
// older program passes a newer link on unharmed. A plain value.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "mesh/node_id.h"

namespace sporkle::mesh {

struct Address {
  std::string host;  // a name or a literal IPv4 or IPv6 address, without brackets
  uint16_t port = 0;

  // "host:port", "[v6]:port". invalid_argument when it is not that, or the port is 0 or past 65535.
  static Result<Address> parse(std::string_view text);
  std::string to_string() const;

  bool operator==(const Address&) const = default;
};

struct RunLink {
  static constexpr size_t max_length = 4096;
  static constexpr size_t max_addresses = 16;

  NodeId coordinator;
  std::vector<Address> addresses;                 // may be empty
  std::map<std::string, std::string> parameters;  // decoded; percent-encoded in the text

  // invalid_argument names the part at fault.
  static Result<RunLink> parse(std::string_view text);
  std::string to_string() const;

  bool operator==(const RunLink&) const = default;
};

// This machine's own addresses without ports, for filling a link: global ones first, loopback last (it is always
// there).
std::vector<std::string> local_addresses();

}  // namespace sporkle::mesh
