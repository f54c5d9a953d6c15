#include "mesh/transport.h"

#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/ip/v6_only.hpp>
#include <boost/asio/strand.hpp>
#include <exception>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "base/log.h"
#include "mesh/asio_connection.h"
#include "mesh/handshake_gate.h"

namespace sporkle::mesh {
namespace {

constexpr milliseconds full_poll{20};
constexpr milliseconds first_accept_backoff{10};
constexpr milliseconds longest_accept_backoff{1000};

bool out_of_descriptors(const error_code& error) {
  return error == asio::error::no_descriptors || error == error_code(ENFILE, boost::system::system_category()) ||
         error == asio::error::no_buffer_space || error == asio::error::no_memory;
}

struct AcceptContext {
  std::shared_ptr<const TlsContext> tls;
  ConnectionOptions options;
  AcceptLimits limits;
  Reactor::OnAccept on_accept;
  ConnectionEvents events;
  // Shared with the events of connections.
  std::shared_ptr<HandshakeGate> gate;
  std::shared_ptr<std::atomic<size_t>> open_connections;
};

// The events of one connection, which leaves the gate when its handshake is done or it closes.
ConnectionEvents gated(const AcceptContext& context, std::shared_ptr<uint64_t> number) {
  ConnectionEvents events = context.events;
  events.on_open = [gate = context.gate, open = context.open_connections, number, next = context.events.on_open](
                       const std::shared_ptr<Connection>& connection, const Session::Event& hello) {
    gate->leave(*number);
    ++*open;
    if (next) next(connection, hello);
  };
  events.on_closed = [gate = context.gate, open = context.open_connections, number, next = context.events.on_closed](
                         const std::shared_ptr<Connection>& connection, const Status& why, bool opened) {
    gate->leave(*number);
    if (opened) --*open;
    if (next) next(connection, why, opened);
  };
  return events;
}

awaitable<void> accept_loop(std::shared_ptr<Reactor::Io> io, std::shared_ptr<const AcceptContext> context) {
  milliseconds backoff = first_accept_backoff;
  while (io->listening) {
    error_code error;
    // Those that have been turned away take a moment to close.
    if (io->accepted_connections >= context->limits.connections + 2 * context->limits.handshakes) {
      io->accept_timer->expires_after(full_poll);
      co_await io->accept_timer->async_wait(with_error(error));
      continue;
    }
    tcp::socket socket(asio::make_strand(io->context));
    co_await io->acceptor->async_accept(socket, with_error(error));
    if (!io->listening) co_return;
    if (error) {
      // Out of descriptors, the waiting connection stays ready: accepting again at once would spin.
      if (out_of_descriptors(error) && backoff == first_accept_backoff)
        log(LogLevel::warning, "mesh",
            "cannot accept a connection: " + error.message() + "; waiting for some to close");
      io->accept_timer->expires_after(backoff);
      backoff = std::min(2 * backoff, longest_accept_backoff);
      co_await io->accept_timer->async_wait(with_error(error));
      continue;
    }
    backoff = first_accept_backoff;
    while (*context->open_connections >= context->limits.connections && io->listening) {
      io->accept_timer->expires_after(full_poll);
      co_await io->accept_timer->async_wait(with_error(error));
    }
    if (!io->listening) co_return;
    const tcp::endpoint remote = socket.remote_endpoint(error);
    if (error) continue;  // it has left
    ++io->accepted_connections;
    const auto number = std::make_shared<uint64_t>(0);
    const auto connection = std::make_shared<AsioConnection>(
        io, std::move(socket), context->tls, WireStream::Side::server, context->options, gated(*context, number));
    *number =
        context->gate->enter(handshake_source(endpoint_text(remote)), [late = std::weak_ptr<Connection>(connection)] {
          if (const auto one = late.lock()) one->close(unavailable("too many connections have not said who they are"));
        });
    context->on_accept(connection);
    connection->start_server();
  }
}

Result<std::vector<tcp::endpoint>> endpoints_to_listen_on(asio::io_context& context, const std::string& host,
                                                          uint16_t port) {
  if (host.empty()) return std::vector{tcp::endpoint(tcp::v6(), port), tcp::endpoint(tcp::v4(), port)};
  error_code error;
  const asio::ip::address literal = asio::ip::make_address(host, error);
  if (!error) return std::vector{tcp::endpoint(literal, port)};
  tcp::resolver resolver(context);
  std::vector<tcp::endpoint> endpoints;
  for (const auto& entry : resolver.resolve(host, std::to_string(port), error)) endpoints.push_back(entry.endpoint());
  if (error) return invalid_argument("cannot listen on " + host + ": " + error.message());
  return endpoints;
}

Status listen_on(tcp::acceptor& acceptor, const tcp::endpoint& endpoint) {
  const std::string name = endpoint_text(endpoint);
  error_code error, ignored;
  acceptor.close(ignored);
  acceptor.open(endpoint.protocol(), error);
  // A restarted coordinator must get its port back although old connections linger.
  if (!error) acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error && endpoint.protocol() == tcp::v6() && endpoint.address().is_unspecified())
    acceptor.set_option(asio::ip::v6_only(false), error);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (!error) return {};
  if (error == asio::error::address_in_use)
    return Status(Code::already_exists, "cannot listen on " + name + ": port " + std::to_string(endpoint.port()) +
                                            " is taken by another program; choose another, or 0 for any free one");
  if (error == asio::error::access_denied)
    return Status(Code::permission_denied,
                  "cannot listen on " + name + ": " + error.message() + "; ports below 1024 usually need privileges");
  return invalid_argument("cannot listen on " + name + ": " + error.message());
}

}  // namespace

Result<std::unique_ptr<Reactor>> Reactor::create(unsigned threads) {
  threads = std::max(threads, 1u);
  try {
    std::unique_ptr<Reactor> reactor(new Reactor(std::make_shared<Io>(threads)));  // its destructor joins what started
    for (unsigned i = 0; i < threads; ++i)
      reactor->io_->threads.emplace_back([io = reactor->io_.get()] { io->context.run(); });
    return reactor;
  } catch (const std::exception& error) {
    return unavailable(std::string("cannot start the network threads: ") + error.what());
  }
}

Reactor::~Reactor() {
  stop_listening();
  io_->work.reset();
  for (std::thread& thread : io_->threads) thread.join();
}

Result<uint16_t> Reactor::listen(const std::string& host, uint16_t port, std::shared_ptr<const TlsContext> tls,
                                 const ConnectionOptions& options, const AcceptLimits& limits, OnAccept on_accept,
                                 ConnectionEvents events) {
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<tcp::endpoint> endpoints,
                           endpoints_to_listen_on(io_->context, host, port));
  const auto strand = asio::make_strand(io_->context);
  tcp::acceptor acceptor(strand);
  Status status = invalid_argument("cannot listen on " + host + ": it has no address");
  for (const tcp::endpoint& endpoint : endpoints) {
    status = listen_on(acceptor, endpoint);
    if (status.ok() || status.code() == Code::already_exists) break;
  }
  SPORKLE_RETURN_IF_ERROR(status);
  error_code error;
  const uint16_t bound = acceptor.local_endpoint(error).port();
  io_->acceptor.emplace(std::move(acceptor));
  io_->accept_timer.emplace(strand);
  io_->listening = true;
  auto context = std::make_shared<const AcceptContext>(
      AcceptContext{std::move(tls), options, limits, std::move(on_accept), std::move(events),
                    std::make_shared<HandshakeGate>(limits.handshakes, limits.handshakes_of_an_address),
                    std::make_shared<std::atomic<size_t>>(0)});
  asio::co_spawn(strand, accept_loop(io_, std::move(context)), asio::detached);
  return bound;
}

void Reactor::stop_listening() {
  if (!io_->acceptor) return;
  asio::post(io_->acceptor->get_executor(), [io = io_] {
    error_code ignored;
    io->listening = false;
    io->acceptor->close(ignored);
    io->accept_timer->cancel();
  });
}

std::shared_ptr<Connection> Reactor::connect(const Address& address, const NodeId& expected,
                                             std::shared_ptr<const TlsContext> tls, const ConnectionOptions& options,
                                             ConnectionEvents events) {
  const auto connection =
      std::make_shared<AsioConnection>(io_, tcp::socket(asio::make_strand(io_->context)), std::move(tls),
                                       WireStream::Side::client, options, std::move(events));
  connection->start_client(address, expected);
  return connection;
}

}  // namespace sporkle::mesh
