// Two machines on a network of their own, in tests: network namespaces joined by a virtual cable, with addresses
// 10.77.0.1 and 10.77.0.2, IPv6 link-local ones, and loopback each. Nothing outside hears what is sent there.
//
// Made for the whole process, which must have one thread still.
#pragma once

#include <string>

namespace sporkle::testing {

enum class Machine { first, second };

class Network {
 public:
  // Takes this process into a namespace of its own. `error()` says why where the system does not let us; the process
  // then stays where it was, or on a network with loopback only.
  Network();
  ~Network();
  Network(const Network&) = delete;
  Network& operator=(const Network&) = delete;

  const std::string& error() const { return error_; }

  // Takes IPv4 from the cable, or gives it back; with IPv6's link-local addresses alone, once they are of use.
  void use_ipv4(bool used);

  // Commands started from now on are on that machine.
  void enter(Machine machine);

 private:
  std::string error_;
  int first_ = -1, second_ = -1;  // the namespaces
  int holder_ = -1;               // a process that lives in the second, for `ip` to name it
};

}  // namespace sporkle::testing
