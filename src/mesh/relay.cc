#include "mesh/relay.h"

#include <openssl/rand.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/v6_only.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/read.hpp>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>

#include "base/log.h"
#include "mesh/relay.pb.h"
#include "mesh/relay_circuit.h"
#include "mesh/relay_splice.h"

namespace sporkle::mesh {
namespace {

namespace asio = boost::asio;
using asio::awaitable;
using asio::ip::tcp;
using boost::system::error_code;
using std::chrono::steady_clock;

// Connections to the join port that have not sent their preamble: beyond this they are closed at once.
constexpr size_t max_unjoined = 256;
constexpr std::chrono::milliseconds sweep_interval{250};
constexpr std::chrono::milliseconds accept_backoff{100};

Status listen_on(tcp::acceptor& acceptor, const std::string& host, uint16_t port) {
  error_code error;
  tcp::endpoint endpoint(tcp::v6(), port);
  if (!host.empty()) {
    const asio::ip::address address = asio::ip::make_address(host, error);
    if (error) return invalid_argument("a relay listens on a literal address, not \"" + host + "\"");
    endpoint = {address, port};
  }
  acceptor.open(endpoint.protocol(), error);
  if (error && host.empty()) {  // a system without IPv6
    endpoint = {tcp::v4(), port};
    acceptor.open(endpoint.protocol(), error);
  }
  if (!error && endpoint.protocol() == tcp::v6()) acceptor.set_option(asio::ip::v6_only(!host.empty()), error);
  if (!error) acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (!error) return {};
  acceptor.close();
  const std::string what = "cannot listen on port " + std::to_string(port) + ": " + error.message();
  return {error == asio::error::address_in_use  ? Code::already_exists
          : error == asio::error::access_denied ? Code::permission_denied
                                                : Code::unavailable,
          what};
}

}  // namespace

// Everything but the counters belongs to the io_context's one thread.
struct Relay::State {
  struct Reservation {
    explicit Reservation(asio::io_context& context) : acceptor(context) {}
    NodeId node;
    uint64_t connection_id = 0;  // 0: the node is away
    tcp::acceptor acceptor;
    uint16_t port = 0;
    std::optional<Responder> poll;
    std::deque<CircuitToken> unannounced;
    size_t circuits = 0;
    steady_clock::time_point away_since;
  };
  struct Waiting {
    tcp::socket stranger;
    std::shared_ptr<Reservation> reservation;
    steady_clock::time_point since;
  };

  explicit State(const RelayOptions& relay_options)
      : options(relay_options), pacer(relay_options.bytes_per_second), join_acceptor(context), sweeper(context) {}

  const RelayOptions options;
  asio::io_context context{1};
  Pacer pacer;
  tcp::acceptor join_acceptor;
  asio::steady_timer sweeper;
  uint16_t join_port = 0;
  std::unordered_map<NodeId, std::shared_ptr<Reservation>> reservations;
  std::map<CircuitToken, Waiting> waiting;
  std::set<std::shared_ptr<Splice>> splices;
  size_t unjoined = 0;
  bool stopping = false;
  std::atomic<size_t> reservation_count{0}, circuit_count{0};
  std::atomic<uint64_t> joined{0}, refused{0};
  std::thread thread;
  std::unique_ptr<Server> server;

  // --- calls of nodes ---

  void call(const Peer& peer, std::string_view method, Message request, Responder respond) {
    const auto later = std::make_shared<Responder>(std::move(respond));
    if (method == "relay.reserve") {
      wire::RelayReserve reserve;
      if (!reserve.ParseFromString(request.body) || reserve.wanted_port() > 65535)
        return (*later)(invalid_argument("unreadable request for a reservation"));
      asio::post(context, [this, peer, later, wanted = static_cast<uint16_t>(reserve.wanted_port())] {
        (*later)(reserve_port(peer, wanted));
      });
    } else if (method == "relay.next_circuit") {
      asio::post(context, [this, id = peer.id, connection = peer.connection_id, later] {
        const auto it = reservations.find(id);
        if (it == reservations.end() || it->second->connection_id != connection)
          return (*later)(not_found("this connection holds no reservation here; call relay.reserve first"));
        if (it->second->poll) (*it->second->poll)(Status(Code::cancelled, "asked again"));
        it->second->poll.emplace(std::move(*later));
        announce(*it->second);
      });
    } else {
      (*later)(unsupported("this is a relay; it knows relay.reserve and relay.next_circuit only"));
    }
  }

  Result<Message> reserve_port(const Peer& peer, uint16_t wanted) {
    if (stopping) return Status(Code::unavailable, "this relay is stopping");
    std::shared_ptr<Reservation>& slot = reservations[peer.id];
    if (!slot) {
      auto made = make_reservation(peer.id, wanted);
      if (!made.ok()) {
        reservations.erase(peer.id);
        return made.status();
      }
      slot = *std::move(made);
      reservation_count = reservations.size();
      asio::co_spawn(context, accept_strangers(slot), asio::detached);
    }
    if (slot->poll) (*std::exchange(slot->poll, std::nullopt))(Status(Code::cancelled, "reserved again"));
    slot->connection_id = peer.connection_id;
    wire::RelayReservation answer;
    answer.set_port(slot->port);
    answer.set_join_port(join_port);
    return Message{answer.SerializeAsString(), {}};
  }

  Result<std::shared_ptr<Reservation>> make_reservation(const NodeId& node, uint16_t wanted) {
    if (!options.allowed.empty() && std::ranges::find(options.allowed, node) == options.allowed.end())
      return Status(Code::permission_denied,
                    "this relay serves chosen nodes only; its owner can add yours with --allow");
    if (reservations.size() > options.max_reservations)  // the new one counts already
      return unavailable("this relay has no reservation left; try another");
    auto made = std::make_shared<Reservation>(context);
    made->node = node;
    const bool ranged = options.first_port != 0;
    const auto fits = [&](uint16_t port) {
      return port >= 1024 && (!ranged || (port >= options.first_port && port <= options.last_port));
    };
    Status status = unavailable("this relay has no port left; try another");
    if (fits(wanted)) status = listen_on(made->acceptor, options.server.host, wanted);
    if (!status.ok() && !ranged) status = listen_on(made->acceptor, options.server.host, 0);
    for (uint32_t port = options.first_port; ranged && !status.ok() && port <= options.last_port; ++port)
      status = listen_on(made->acceptor, options.server.host, static_cast<uint16_t>(port));
    if (!status.ok()) return status;
    made->port = made->acceptor.local_endpoint().port();
    return made;
  }

  void left(const Peer& peer) {
    asio::post(context, [this, id = peer.id, connection = peer.connection_id] {
      const auto it = reservations.find(id);
      if (it == reservations.end() || it->second->connection_id != connection) return;
      it->second->connection_id = 0;
      it->second->poll.reset();
      it->second->away_since = steady_clock::now();
    });
  }

  // --- circuits ---

  void announce(Reservation& reservation) {
    while (reservation.poll && !reservation.unannounced.empty()) {
      const CircuitToken token = reservation.unannounced.front();
      reservation.unannounced.pop_front();
      if (!waiting.contains(token)) continue;  // nobody came for it in time
      wire::RelayCircuit circuit;
      circuit.set_token(token.data(), token.size());
      (*std::exchange(reservation.poll, std::nullopt))(Message{circuit.SerializeAsString(), {}});
    }
  }

  void circuit_ended(Reservation& reservation) {
    --reservation.circuits;
    --circuit_count;
  }

  awaitable<void> accept_strangers(std::shared_ptr<Reservation> reservation) {
    while (reservation->acceptor.is_open()) {
      error_code error;
      tcp::socket stranger = co_await reservation->acceptor.async_accept(with_error(error));
      if (error) {
        co_await pause_after(error);
        continue;
      }
      CircuitToken token;
      if (reservation->connection_id == 0 || reservation->circuits >= options.max_circuits_of_one_node ||
          circuit_count >= options.max_circuits ||
          ::RAND_bytes(reinterpret_cast<unsigned char*>(token.data()), static_cast<int>(token.size())) != 1) {
        ++refused;
        continue;
      }
      ++reservation->circuits;
      ++circuit_count;
      waiting.emplace(token, Waiting{std::move(stranger), reservation, steady_clock::now()});
      reservation->unannounced.push_back(token);
      announce(*reservation);
    }
  }

  awaitable<void> accept_joins() {
    while (join_acceptor.is_open()) {
      error_code error;
      tcp::socket socket = co_await join_acceptor.async_accept(with_error(error));
      if (error) {
        co_await pause_after(error);
      } else if (unjoined >= max_unjoined) {
        ++refused;
      } else {
        asio::co_spawn(context, join(std::move(socket)), asio::detached);
      }
    }
  }

  awaitable<void> join(tcp::socket opened) {
    ++unjoined;
    const auto socket = std::make_shared<tcp::socket>(std::move(opened));
    asio::steady_timer deadline(context, options.join_timeout);
    deadline.async_wait([socket](const error_code& error) {
      error_code ignored;
      if (!error) socket->close(ignored);
    });
    RelayPreamble bytes;
    error_code error;
    co_await asio::async_read(*socket, asio::buffer(bytes), with_error(error));
    deadline.cancel();
    --unjoined;
    const Result<CircuitToken> token = decode_relay_preamble(bytes);
    const auto it = error || !token.ok() ? waiting.end() : waiting.find(*token);
    if (it == waiting.end() || stopping || !socket->is_open()) {
      ++refused;
      co_return;
    }
    ++joined;
    auto [stranger, reservation, since] = std::move(it->second);
    waiting.erase(it);
    auto splice = std::make_shared<Splice>(std::move(stranger), std::move(*socket), &pacer);
    splice->on_end([this, reservation = std::move(reservation), raw = std::weak_ptr(splice)] {
      circuit_ended(*reservation);
      splices.erase(raw.lock());
    });
    splices.insert(splice);
    splice->start();
  }

  // Out of descriptors, or the like: no spinning.
  awaitable<void> pause_after(const error_code& error) {
    if (error == asio::error::operation_aborted) co_return;
    asio::steady_timer timer(context, accept_backoff);
    error_code ignored;
    co_await timer.async_wait(with_error(ignored));
  }

  awaitable<void> sweep() {
    while (!stopping) {
      sweeper.expires_after(sweep_interval);
      error_code ignored;
      co_await sweeper.async_wait(with_error(ignored));
      const auto now = steady_clock::now();
      std::erase_if(waiting, [&](const auto& entry) {
        if (now - entry.second.since < options.join_timeout) return false;
        circuit_ended(*entry.second.reservation);
        return true;
      });
      for (const auto& splice : splices)
        if (now - splice->last_activity() > options.idle_timeout) splice->close();
      std::erase_if(reservations, [&](const auto& entry) {
        Reservation& reservation = *entry.second;
        if (reservation.connection_id != 0 || now - reservation.away_since < options.absence) return false;
        error_code closed;
        reservation.acceptor.close(closed);
        return true;
      });
      reservation_count = reservations.size();
    }
  }

  void stop() {
    if (server) server->stop();
    asio::post(context, [this] {
      stopping = true;
      error_code ignored;
      join_acceptor.close(ignored);
      sweeper.cancel();
      for (auto& [node, reservation] : reservations) {
        reservation->acceptor.close(ignored);
        reservation->poll.reset();
      }
      waiting.clear();
      for (const auto& splice : splices) splice->close();
    });
    if (thread.joinable()) thread.join();
  }
};

Relay::Relay(std::unique_ptr<State> state) : state_(std::move(state)) {}

Result<std::unique_ptr<Relay>> Relay::start(const Identity& identity, const RelayOptions& options) {
  if ((options.first_port == 0) != (options.last_port == 0) || options.first_port > options.last_port)
    return invalid_argument("a relay's ports are a range FIRST-LAST, not " + std::to_string(options.first_port) + "-" +
                            std::to_string(options.last_port));
  auto state = std::make_unique<State>(options);
  State* const raw = state.get();
  SPORKLE_RETURN_IF_ERROR(listen_on(raw->join_acceptor, options.server.host, options.join_port));
  raw->join_port = raw->join_acceptor.local_endpoint().port();
  asio::co_spawn(raw->context, raw->accept_joins(), asio::detached);
  asio::co_spawn(raw->context, raw->sweep(), asio::detached);
  std::unique_ptr<Relay> relay(new Relay(std::move(state)));
  ServerOptions server = options.server;
  server.role = "relay";
  ServerCallbacks callbacks;
  callbacks.handler = [raw](const Peer& peer, std::string_view method, Message request, Responder respond) {
    raw->call(peer, method, std::move(request), std::move(respond));
  };
  callbacks.on_disconnect = [raw](const Peer& peer, const Status&) { raw->left(peer); };
  // The thread comes last: until then, nothing else touches the state.
  SPORKLE_ASSIGN_OR_RETURN(raw->server, Server::start(identity, server, std::move(callbacks)));
  raw->thread = std::thread([raw] { raw->context.run(); });
  return relay;
}

Relay::~Relay() { state_->stop(); }

uint16_t Relay::port() const { return state_->server->port(); }
uint16_t Relay::join_port() const { return state_->join_port; }
RelayStats Relay::stats() const {
  return {state_->reservation_count, state_->circuit_count, state_->joined, state_->refused};
}

}  // namespace sporkle::mesh
