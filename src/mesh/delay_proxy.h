// DelayProxy: a TCP forwarder that makes a server look far away, for benchmarks and tests on machines whose kernel
// cannot delay packets. Every byte takes half a round trip each way, and opening a connection takes a whole one, as
// TCP's handshake would; the rate is not limited, and nothing is lost.
//
// Owns a thread, which moves all bytes, and ends its connections when it is destroyed. Thread-safe.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>

#include "base/status.h"
#include "mesh/run_link.h"

namespace sporkle::mesh {

class DelayProxy {
 public:
  // Both addresses are literal and IPv4; port 0 of `listen` takes any free one. invalid_argument for an address that is
  // none, unavailable when it cannot be had.
  static Result<std::unique_ptr<DelayProxy>> start(const Address& listen, const Address& target,
                                                   std::chrono::milliseconds round_trip);
  ~DelayProxy();
  DelayProxy(const DelayProxy&) = delete;
  DelayProxy& operator=(const DelayProxy&) = delete;

  uint16_t port() const;

 private:
  struct State;
  explicit DelayProxy(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace sporkle::mesh
