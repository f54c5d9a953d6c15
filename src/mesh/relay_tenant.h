// RelayTenant: a node's side of a relay. Keeps a reservation there, and ties every circuit that the relay announces to
// a server on this machine, which sees an ordinary connection from loopback; TLS runs between that server and whoever
// connected to the relay. A lost relay is come back to with back-off, for the same port where it is still free.
//
// Owns its connections and two threads. Methods are thread-safe.
#pragma once

#include <cstdint>
#include <memory>

#include "base/status.h"
#include "mesh/client.h"
#include "mesh/identity.h"
#include "mesh/retry.h"
#include "mesh/run_link.h"

namespace sporkle::mesh {

struct RelayTenantOptions {
  ClientOptions client;
  uint16_t wanted_port = 0;   // one that this node had at this relay before; 0: any
  size_t max_circuits = 512;  // those beyond are not fetched
  BackoffOptions backoff;
};

class RelayTenant {
 public:
  // `relay` is the link that `sporkle relay` prints. Returns once a port is reserved. Errors: those of Client::connect,
  // and the relay's own: unavailable when it is full, permission_denied when it serves others only.
  static Result<std::unique_ptr<RelayTenant>> start(const RunLink& relay, const Identity& identity,
                                                    const RelayTenantOptions& options = {});
  // Ends every circuit, and gives the port up.
  ~RelayTenant();

  // Circuits go to this address from now on; those before wait at the relay, for some seconds. Its host is literal.
  void forward_to(const Address& server);

  // Where others reach the server. May change when the relay was lost.
  Address address() const;
  bool connected() const;

 private:
  struct State;
  explicit RelayTenant(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace sporkle::mesh
