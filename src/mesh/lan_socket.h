// UDP sockets for the local network, and its interfaces. Internal to mesh/: this header brings Boost.Asio along, so
// only lan_announcer.cc and lan_scan.cc include it.
//
// What is sent stays on the link (a hop limit of 1), answers included: a forged source address further away gets
// nothing. A LanSocket belongs to the thread that runs its io_context.
#pragma once

#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/udp.hpp>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "mesh/lan_datagram.h"
#include "mesh/lan_scope.h"

namespace sporkle::mesh {

struct LanInterface {
  unsigned index = 0;  // the system's
  bool has_v4 = false;
  bool has_v6 = false;
};

// Those that are up, have an address and can multicast; at most 32. Loopback is always among them.
std::vector<LanInterface> lan_interfaces(LanScope scope);

class LanSocket {
 public:
  using Endpoint = boost::asio::ip::udp::endpoint;
  using OnDatagram = std::function<void(std::span<const std::byte> datagram, const Endpoint& source)>;
  enum class Family { v4, v6 };

  LanSocket(boost::asio::io_context& context, Family family) : family_(family), socket_(context) {}

  // Port 0: any free one; any other is shared with those who share it, so that several processes hear the group.
  Status open(uint16_t port);
  bool is_open() const { return socket_.is_open(); }
  // Hears the group on this interface from now on; again is harmless.
  void join(const LanInterface& interface);
  // Both drop what the system cannot take now: datagrams may be lost anyway.
  void send_to_group(std::span<const std::byte> datagram, const LanInterface& interface, uint16_t port);
  void send(std::span<const std::byte> datagram, const Endpoint& to);
  // Calls `on_datagram` for whatever arrives, of any size up to one byte more than the longest datagram (which stands
  // for all longer ones), until close().
  void receive(OnDatagram on_datagram);
  void close();

 private:
  void receive_next();

  const Family family_;
  boost::asio::ip::udp::socket socket_;
  std::array<std::byte, lan_max_bytes + 1> buffer_{};
  Endpoint source_;
  OnDatagram on_datagram_;
};

}  // namespace sporkle::mesh
