// For tests: a TCP forwarder between a worker and its coordinator that can spoil what passes.
//
// Owns a thread, which moves all bytes. Methods are thread-safe.
#pragma once

#include <cstdint>
#include <memory>

namespace sporkle::testing {

enum class Direction { to_coordinator, to_worker };
enum class Fault {
  flip,  // one bit of the chunk arrives wrong
  cut,   // the chunk stops short, and the connection ends
  hold,  // the chunk stops short, and nothing more passes in this direction until cut()
};

class Forwarder {
 public:
  // From a free port of loopback to `port` of loopback.
  explicit Forwarder(uint16_t port);
  ~Forwarder();
  uint16_t port() const;
  // Once, in the chunk with which `more_bytes` further ones have passed.
  void inject(Direction direction, uint64_t more_bytes, Fault fault);
  // Until the fault has happened; false when it has not within a minute.
  bool wait_for_fault();
  // Ends every connection.
  void cut();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace sporkle::testing
