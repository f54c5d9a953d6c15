#include <charconv>
#include <chrono>
#include <cstdio>
#include <memory>
#include <thread>

#include "apps/sporkle/cli.h"
#include "apps/sporkle/commands.h"
#include "apps/sporkle/interrupt.h"
#include "apps/sporkle/listen_address.h"
#include "apps/sporkle/version.h"
#include "base/file.h"
#include "base/json_writer.h"
#include "mesh/relay.h"
#include "mesh/run_link.h"

namespace sporkle::app {
namespace {

struct RelayCommandOptions {
  std::string listen = "0.0.0.0:37748";
  int64_t join_port = 37749;
  std::string ports;
  std::vector<std::string> addresses;
  std::vector<std::string> allowed;
  double megabits = 100;
  int64_t reservations = 64;
  int64_t circuits = 256;
  bool json = false;
};

Status parse_ports(const std::string& text, mesh::RelayOptions* options) {
  if (text.empty()) return {};
  const char* const end = text.data() + text.size();
  const auto first = std::from_chars(text.data(), end, options->first_port);
  if (first.ec == std::errc() && first.ptr != end && *first.ptr == '-') {
    const auto last = std::from_chars(first.ptr + 1, end, options->last_port);
    if (last.ec == std::errc() && last.ptr == end && options->first_port >= 1024 &&
        options->first_port <= options->last_port)
      return {};
  }
  return invalid_argument("--ports takes a range of ports from 1024 to 65535, such as 40000-40063, not \"" + text +
                          "\"");
}

Status serve_relay(const RelayCommandOptions& o) {
  mesh::RelayOptions options;
  SPORKLE_RETURN_IF_ERROR(parse_listen(o.listen, &options.server));
  SPORKLE_RETURN_IF_ERROR(parse_ports(o.ports, &options));
  for (const std::string& text : o.allowed) {
    SPORKLE_ASSIGN_OR_RETURN(const mesh::NodeId id, mesh::NodeId::parse(text));
    options.allowed.push_back(id);
  }
  options.server.software = "sporkle " + std::string(version());
  options.join_port = static_cast<uint16_t>(o.join_port);
  options.max_reservations = static_cast<size_t>(o.reservations);
  options.max_circuits = static_cast<size_t>(o.circuits);
  options.bytes_per_second = static_cast<uint64_t>(o.megabits * 1e6 / 8);
  SPORKLE_ASSIGN_OR_RETURN(const mesh::Identity identity, mesh::Identity::load_or_create(home_directory()));
  SPORKLE_ASSIGN_OR_RETURN(const std::unique_ptr<mesh::Relay> relay, mesh::Relay::start(identity, options));
  mesh::RunLink link{identity.id(), {}, {}};
  for (const std::string& host : o.addresses.empty() ? mesh::local_addresses() : o.addresses)
    if (link.addresses.size() < mesh::RunLink::max_addresses) link.addresses.push_back({host, relay->port()});
  if (o.json) {
    std::printf("%s\n", JsonObject()
                            .add("event", "link")
                            .add("link", link.to_string())
                            .add("port", relay->port())
                            .add("join_port", relay->join_port())
                            .text()
                            .c_str());
  } else {
    std::printf(
        "Relay link:\n\n  %s\n\nWhoever cannot be reached starts a run with:\n\n  sporkle run start CONFIG --relay "
        "'%s'\n\n"
        "Ports %u and %u, and %s, must be open to the internet. Ctrl-C stops.\n",
        link.to_string().c_str(), link.to_string().c_str(), relay->port(), relay->join_port(),
        o.ports.empty() ? "those above 1023 that are handed out (--ports narrows them)" : o.ports.c_str());
  }
  std::fflush(stdout);
  catch_interrupts();
  while (!interrupted()) std::this_thread::sleep_for(std::chrono::milliseconds(50));
  const mesh::RelayStats stats = relay->stats();
  if (o.json) {
    std::printf("%s\n", JsonObject()
                            .add("event", "summary")
                            .add("circuits_joined", stats.circuits_joined)
                            .add("refused", stats.refused)
                            .text()
                            .c_str());
  } else {
    std::printf("Carried %llu connections, refused %llu.\n", static_cast<unsigned long long>(stats.circuits_joined),
                static_cast<unsigned long long>(stats.refused));
  }
  return {};
}

}  // namespace

void register_relay(Cli& cli) {
  auto options = std::make_shared<RelayCommandOptions>();
  RelayCommandOptions& o = *options;
  Command relay = cli.command("relay", "Let coordinators behind NATs be reached through this machine");
  relay.option("--listen", &o.listen, "Address to listen on").value_name("HOST:PORT");
  relay.option("--join-port", &o.join_port, "Port where coordinators fetch connections; 0: any free one")
      .range(0, 65535);
  relay.option("--ports", &o.ports, "Ports to hand out (default: any free ones)").value_name("FIRST-LAST");
  relay.option("--address", &o.addresses, "Host that the link names (may be repeated; default: this machine's)")
      .one_at_a_time()
      .value_name("HOST");
  relay
      .option("--allow", &o.allowed,
              "ID of a node that may be reached through this relay (may be repeated; default: everyone)")
      .one_at_a_time()
      .value_name("NODE");
  relay.option("--megabits", &o.megabits, "Mbit/s of all connections together, both directions; 0: no limit")
      .range(0, 1e6);
  relay.option("--reservations", &o.reservations, "Coordinators at the same time").range(1, 60000);
  relay.option("--circuits", &o.circuits, "Connections at the same time").range(1, 100000);
  relay.flag("--json", &o.json, "Print JSON");
  relay.example("relay --address relay.example.org --ports 40000-40063", "Prints the relay's link, and serves.");
  relay.action([options] { return serve_relay(*options); });
}

}  // namespace sporkle::app
