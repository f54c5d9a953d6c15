// A connection's beginning: connecting and the handshake; and the wait for the peer to end its own.
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <array>

#include "mesh/asio_connection.h"
#include "mesh/plain_stream.h"

namespace sporkle::mesh {
namespace {

// What the kernel may hold unsent: a small call queued behind a large payload waits for this much at most.
constexpr int unsent_low_water_bytes = 256 << 10;

}  // namespace

std::string endpoint_text(const tcp::endpoint& endpoint) {
  asio::ip::address address = endpoint.address();
  if (address.is_v6() && address.to_v6().is_v4_mapped())
    address = asio::ip::make_address_v4(asio::ip::v4_mapped, address.to_v6());
  return Address{address.to_string(), endpoint.port()}.to_string();
}

awaitable<Status> AsioConnection::connect_socket(Self self, Address address) {
  std::vector<tcp::endpoint> endpoints;
  error_code error;
  const asio::ip::address literal = asio::ip::make_address(address.host, error);
  if (!error) {
    endpoints.emplace_back(literal, address.port);
  } else {
    tcp::resolver resolver(self->socket_.get_executor());
    const auto found = co_await resolver.async_resolve(address.host, std::to_string(address.port), with_error(error));
    if (error) co_return unavailable("cannot find the address of " + address.host + ": " + error.message());
    for (const auto& entry : found) endpoints.push_back(entry.endpoint());
  }
  Status status = unavailable("no address known for " + address.host);
  for (const tcp::endpoint& endpoint : endpoints) {
    if (self->ending()) co_return self->why_;
    error_code ignored;
    self->socket_.close(ignored);
    co_await self->socket_.async_connect(endpoint, with_error(error));
    if (self->ending()) co_return self->why_;
    if (!error) co_return Status();
    status = unavailable("cannot connect to " + endpoint_text(endpoint) + ": " + error.message());
  }
  co_return status;
}

awaitable<Status> AsioConnection::handshake(Self self) {
  error_code error;
  const tcp::endpoint remote = self->socket_.remote_endpoint(error);
  if (error) co_return unavailable("the peer left before the handshake: " + error.message());
  self->peer_address_ = endpoint_text(remote);
  self->socket_.non_blocking(true, error);
  self->socket_.set_option(tcp::no_delay(true), error);
  const int descriptor = self->socket_.native_handle();
  ::setsockopt(descriptor, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent_low_water_bytes, sizeof unsent_low_water_bytes);
  bool plain = self->options_.plaintext;
  if (self->side_ == WireStream::Side::server) {
    SPORKLE_CO_RETURN_IF_ERROR(co_await wait_for(self, WireStream::Progress::want_read));
    char first = 0;  // TLS begins with 0x16, never with this
    const bool asked = ::recv(descriptor, &first, 1, MSG_PEEK) == 1 && first == plain_greeting[0];
    if (asked && !plain) {
      [[maybe_unused]] const ssize_t put = ::send(descriptor, plain_refusal.data(), plain_refusal.size(), MSG_NOSIGNAL);
      co_await drain(self);
      co_return unsupported(self->peer_address_ +
                            " asked for a connection without encryption (--plaintext), which this node does not allow");
    }
    plain = asked;
  }
  self->make_wire(plain, descriptor);
  for (;;) {
    const WireStream::Progress progress = self->wire_->handshake();
    if (progress == WireStream::Progress::done) break;
    const std::string what = plain ? "handshake" : "TLS handshake";
    if (progress == WireStream::Progress::closed)
      co_return unavailable(self->peer_address_ + " closed the connection during the " + what +
                            (plain ? "; it may not know connections without encryption" : ""));
    if (progress == WireStream::Progress::failed && self->refused_plain())
      co_return unsupported("the node at " + self->peer_address_ +
                            " does not allow connections without encryption; it must be started with --plaintext as "
                            "well, or this one without");
    if (progress == WireStream::Progress::failed)
      co_return unavailable(what + " with " + self->peer_address_ + " failed: " + self->wire_->error());
    SPORKLE_CO_RETURN_IF_ERROR(co_await wait_for(self, progress));
  }
  SPORKLE_CO_ASSIGN_OR_RETURN(self->peer_id_, self->wire_->peer_id());
  if (self->expected_ && self->peer_id_ != *self->expected_)
    co_return Status(Code::permission_denied, "wrong key at " + self->peer_address_ + ": expected node " +
                                                  self->expected_->short_id() + ", found " + self->peer_id_.short_id() +
                                                  "; another program answers there, or the link is out of date");
  self->encrypted_ = self->wire_->encrypted();
  self->resumed_ = self->wire_->resumed();
  if (!self->encrypted_) self->session_.checksum_data();
  if (self->options_.bandwidth) self->bandwidth_ = self->options_.bandwidth(self->peer_id_);
  if (self->bandwidth_) self->session_.set_chunk_bytes(self->bandwidth_->upload.piece_bytes(sent_chunk_bytes));
  co_return Status();
}

void AsioConnection::make_wire(bool plain, int descriptor) {
  std::unique_ptr<WireStream> wire;
  if (plain) {
    wire = std::make_unique<PlainStream>(tls_context_->identity(), descriptor, side_);
  } else {
    auto tls =
        std::make_unique<TlsStream>(tls_context_, descriptor, side_, options_.sessions, expected_.value_or(NodeId{}));
    if (side_ == WireStream::Side::server) {
      std::vector<std::byte> hello;
      session_.next_output(hello);
      tls->greet(std::move(hello));
    }
    wire = std::move(tls);
  }
  const std::lock_guard lock(mutex_);
  wire_ = std::move(wire);
}

bool AsioConnection::refused_plain() const {
  const auto* const plain = dynamic_cast<const PlainStream*>(wire_.get());
  return plain && plain->refused();
}

awaitable<void> AsioConnection::drain(Self self) {
  error_code error;
  self->socket_.shutdown(tcp::socket::shutdown_send, error);
  self->arm_watchdog(steady_clock::now() + goodbye_timeout);
  std::array<std::byte, 256> dropped;
  for (;;) {
    const ssize_t got = ::recv(self->socket_.native_handle(), dropped.data(), dropped.size(), 0);
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) co_return;
    if (got < 0 && !(co_await wait_for(self, WireStream::Progress::want_read)).ok()) co_return;
  }
}

}  // namespace sporkle::mesh
