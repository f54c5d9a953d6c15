// HandshakeGate: how many connections may be on their way through the handshake at once, in all and from one address,
// so that those who never finish it keep nobody out. A new one is always let in; where there are too many, the oldest
// of its own address has to go, or the oldest of the address that has most. Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <string>

namespace sporkle::mesh {

class HandshakeGate {
 public:
  // At least one each.
  HandshakeGate(size_t most, size_t most_of_an_address);

  // Returns the number to leave with. `turn_away` is called at most once, from another call of enter(), and never after
  // the connection has left; it must not call the gate.
  uint64_t enter(const std::string& address, std::function<void()> turn_away);
  // Its handshake is done, or it is gone. Numbers that are not inside are ignored.
  void leave(uint64_t number);
  size_t inside() const;

 private:
  struct Entry {
    std::string address;
    std::function<void()> turn_away;
  };
  void remove(std::map<uint64_t, Entry>::iterator entry);

  const size_t most_;
  const size_t most_of_an_address_;
  mutable std::mutex mutex_;
  uint64_t last_ = 0;
  std::map<uint64_t, Entry> entries_;  // the oldest first
  std::map<std::string, size_t> counts_;
};

// Whose connections count together: an IPv4 address, or the 64 bits of an IPv6 address that a site has. Of "host:port".
std::string handshake_source(const std::string& endpoint);

}  // namespace sporkle::mesh
