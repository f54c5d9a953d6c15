#include "apps/sporkle/dht_choice.h"

#include <algorithm>

#include "base/file.h"
#include "mesh/address_order.h"

namespace sporkle::app {
namespace {

std::filesystem::path nodes_file() { return home_directory() / "dht_nodes"; }

}  // namespace

void DhtChoice::add_options(Command& command) {
  command
      .option(
          "--dht-bootstrap", &bootstrap,
          "A node of the distributed hash table that holds runs' addresses, to ask first (may be repeated; nodes met "
          "are remembered)")
      .one_at_a_time()
      .value_name("HOST:PORT");
  command.flag("--no-dht", &off, "Do not use the distributed hash table");
}

bool DhtChoice::wanted() const {
  std::error_code error;
  return !off && (!bootstrap.empty() || std::filesystem::exists(nodes_file(), error));
}

Result<mesh::DhtOptions> DhtChoice::options(uint16_t port) const {
  mesh::DhtOptions options;
  options.port = port;
  options.nodes_file = nodes_file();
  for (const std::string& text : bootstrap) {
    SPORKLE_ASSIGN_OR_RETURN(mesh::Address address, mesh::Address::parse(text));
    options.bootstrap.push_back(std::move(address));
  }
  // A table of this machine alone: a socket of the machine's other addresses would not reach it.
  if (!bootstrap.empty() && std::ranges::all_of(options.bootstrap, [](const mesh::Address& address) {
        return mesh::is_loopback(address.host);
      })) {
    options.host = "127.0.0.1";
    options.shared_address = true;
  }
  return options;
}

}  // namespace sporkle::app
