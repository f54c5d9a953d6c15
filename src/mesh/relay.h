// Relay: lets nodes behind NATs be reached. A node reserves a port of the relay's; whoever connects there is tied to
// the node by a circuit, over a connection that the node itself opens. TLS runs end to end through a circuit: the relay
// learns who talks when and how much, not what, and what it changes the ends notice.
//
// It connects to nobody, so it cannot be aimed at third parties. Reservations, circuits, and the bytes a second of all
// circuits together are bounded. Owns its ports and threads; methods are thread-safe.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/status.h"
#include "mesh/identity.h"
#include "mesh/node_id.h"
#include "mesh/server.h"

namespace sporkle::mesh {

struct RelayOptions {
  ServerOptions server;    // where nodes ask for reservations: host, port
  uint16_t join_port = 0;  // where they fetch circuits; 0 takes any free one
  // Ports of reservations; 0 and 0 take any free ones.
  uint16_t first_port = 0, last_port = 0;
  std::vector<NodeId> allowed;  // who may reserve; empty: everyone
  size_t max_reservations = 64;
  size_t max_circuits = 256;                        // waiting ones included
  size_t max_circuits_of_one_node = 128;            // likewise
  uint64_t bytes_per_second = 12'500'000;           // both directions of all circuits together; 0: no limit
  std::chrono::milliseconds join_timeout{10'000};   // for the node to fetch a circuit
  std::chrono::milliseconds idle_timeout{120'000};  // a circuit on which nothing moves ends
  std::chrono::milliseconds absence{120'000};       // how long a node that is gone keeps its port
};

struct RelayStats {
  size_t reservations = 0;
  size_t circuits = 0;           // now, waiting ones included
  uint64_t circuits_joined = 0;  // ever
  uint64_t refused = 0;          // connections closed because of a limit, an absent node or a wrong preamble
};

class Relay {
 public:
  // Errors: those of Server::start for either port; invalid_argument for a range of ports that is none.
  static Result<std::unique_ptr<Relay>> start(const Identity& identity, const RelayOptions& options);
  // Ends every circuit.
  ~Relay();

  uint16_t port() const;
  uint16_t join_port() const;
  RelayStats stats() const;

 private:
  struct State;
  explicit Relay(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace sporkle::mesh
