#include "mesh/lan_socket.h"

#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/asio/ip/address.hpp>
#include <boost/asio/ip/v6_only.hpp>
#include <cerrno>
#include <utility>

namespace sporkle::mesh {
namespace {

namespace asio = boost::asio;
using asio::ip::udp;
using boost::system::error_code;

constexpr size_t max_interfaces = 32;

const asio::ip::address& group(LanSocket::Family family) {
  static const asio::ip::address v4 = asio::ip::make_address(lan_group_v4), v6 = asio::ip::make_address(lan_group_v6);
  return family == LanSocket::Family::v4 ? v4 : v6;
}

// An option that an old kernel lacks is done without.
template <typename T>
void set_option(udp::socket& socket, int level, int name, T value) {
  (void)::setsockopt(socket.native_handle(), level, name, &value, sizeof value);
}

ip_mreqn membership_v4(const LanInterface& interface) {
  ip_mreqn membership{};
  const auto bytes = group(LanSocket::Family::v4).to_v4().to_bytes();
  std::copy(bytes.begin(), bytes.end(), reinterpret_cast<unsigned char*>(&membership.imr_multiaddr));
  membership.imr_ifindex = static_cast<int>(interface.index);
  return membership;
}

}  // namespace

std::vector<LanInterface> lan_interfaces(LanScope scope) {
  std::vector<LanInterface> interfaces;
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) return interfaces;
  for (const ifaddrs* i = list; i; i = i->ifa_next) {
    const bool loopback = i->ifa_flags & IFF_LOOPBACK;
    // Loopback does not say that it can multicast, but does. Tunnels are somebody else's network.
    if (!i->ifa_addr || !(i->ifa_flags & IFF_UP) || (i->ifa_flags & IFF_POINTOPOINT) ||
        (!loopback && (scope == LanScope::loopback || !(i->ifa_flags & IFF_MULTICAST))))
      continue;
    const int family = i->ifa_addr->sa_family;
    const unsigned index = ::if_nametoindex(i->ifa_name);
    if (index == 0 || (family != AF_INET && family != AF_INET6)) continue;
    auto known = std::ranges::find(interfaces, index, &LanInterface::index);
    if (known == interfaces.end()) {
      if (interfaces.size() == max_interfaces) continue;
      known = interfaces.insert(known, {index, false, false});
    }
    (family == AF_INET ? known->has_v4 : known->has_v6) = true;
  }
  ::freeifaddrs(list);
  return interfaces;
}

Status LanSocket::open(uint16_t port) {
  const bool v4 = family_ == Family::v4;
  const udp protocol = v4 ? udp::v4() : udp::v6();
  error_code error;
  socket_.open(protocol, error);
  if (!error && !v4) socket_.set_option(asio::ip::v6_only(true), error);
  if (!error && port != 0) socket_.set_option(udp::socket::reuse_address(true), error);
  if (!error) socket_.non_blocking(true, error);
  if (!error) socket_.bind({protocol, port}, error);
  if (error) {
    close();
    return errno_status(
        error.value(), std::string("cannot use UDP over ") + (v4 ? "IPv4" : "IPv6") + ", port " + std::to_string(port));
  }
  if (v4) {
    set_option(socket_, IPPROTO_IP, IP_TTL, 1);
    set_option(socket_, IPPROTO_IP, IP_MULTICAST_TTL, 1);
    set_option(socket_, IPPROTO_IP, IP_MULTICAST_ALL, 0);  // only what this socket joined
  } else {
    set_option(socket_, IPPROTO_IPV6, IPV6_UNICAST_HOPS, 1);
    set_option(socket_, IPPROTO_IPV6, IPV6_MULTICAST_HOPS, 1);
  }
  return {};
}

void LanSocket::join(const LanInterface& interface) {
  if (!is_open() || !(family_ == Family::v4 ? interface.has_v4 : interface.has_v6)) return;
  int result = 0;
  if (family_ == Family::v4) {
    const ip_mreqn membership = membership_v4(interface);
    result = ::setsockopt(socket_.native_handle(), IPPROTO_IP, IP_ADD_MEMBERSHIP, &membership, sizeof membership);
  } else {
    ipv6_mreq membership{};
    const auto bytes = group(family_).to_v6().to_bytes();
    std::copy(bytes.begin(), bytes.end(), membership.ipv6mr_multiaddr.s6_addr);
    membership.ipv6mr_interface = interface.index;
    result = ::setsockopt(socket_.native_handle(), IPPROTO_IPV6, IPV6_JOIN_GROUP, &membership, sizeof membership);
  }
  (void)result;  // EADDRINUSE: joined already; anything else: this interface has no multicast, the others may
}

void LanSocket::send_to_group(std::span<const std::byte> datagram, const LanInterface& interface, uint16_t port) {
  if (!is_open() || !(family_ == Family::v4 ? interface.has_v4 : interface.has_v6)) return;
  if (family_ == Family::v4) {
    set_option(socket_, IPPROTO_IP, IP_MULTICAST_IF, membership_v4(interface));
  } else {
    set_option(socket_, IPPROTO_IPV6, IPV6_MULTICAST_IF, static_cast<int>(interface.index));
  }
  send(datagram, {group(family_), port});
}

void LanSocket::send(std::span<const std::byte> datagram, const Endpoint& to) {
  error_code ignored;
  socket_.send_to(asio::buffer(datagram.data(), datagram.size()), to, 0, ignored);
}

void LanSocket::receive(OnDatagram on_datagram) {
  on_datagram_ = std::move(on_datagram);
  receive_next();
}

void LanSocket::receive_next() {
  if (!is_open()) return;
  socket_.async_receive_from(asio::buffer(buffer_), source_, [this](error_code error, size_t size) {
    if (error == asio::error::operation_aborted || !is_open()) return;
    // Other errors are reports about datagrams that were sent: nobody listens there.
    if (!error) on_datagram_(std::span(buffer_).first(size), source_);
    receive_next();
  });
}

void LanSocket::close() {
  error_code ignored;
  socket_.close(ignored);
}

}  // namespace sporkle::mesh
