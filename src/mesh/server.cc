#include "mesh/server.h"

#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/log.h"
#include "mesh/printable.h"
#include "mesh/tls.h"
#include "mesh/token_bucket.h"
#include "mesh/transport.h"

namespace sporkle::mesh {
namespace {

// Nodes whose past traffic is remembered; anyone can make keys, so there must be an end.
constexpr size_t max_remembered_nodes = 1 << 16;

void add(Traffic& sum, const Traffic& traffic) {
  sum.bytes_sent += traffic.bytes_sent;
  sum.bytes_received += traffic.bytes_received;
}

}  // namespace

Responder::Responder(Answer answer, std::shared_ptr<Cancellation> cancellation,
                     std::optional<std::chrono::milliseconds> timeout)
    : answer_(std::move(answer)), cancellation_(std::move(cancellation)) {
  if (timeout) deadline_ = std::chrono::steady_clock::now() + *timeout;
}

// A moved-from std::function is unspecified; ours must be empty, or the call would be answered twice.
Responder::Responder(Responder&& other) noexcept
    : answer_(std::exchange(other.answer_, nullptr)),
      cancellation_(std::exchange(other.cancellation_, nullptr)),
      deadline_(other.deadline_) {}

Responder& Responder::operator=(Responder&& other) noexcept {
  std::swap(answer_, other.answer_);
  std::swap(cancellation_, other.cancellation_);
  std::swap(deadline_, other.deadline_);
  return *this;
}

Responder::~Responder() {
  if (answer_) (*this)(internal_error("the server dropped the call without an answer"));
}

void Responder::operator()(Result<Message> response) {
  if (const Answer answer = std::exchange(answer_, nullptr)) answer(std::move(response));
}

bool Responder::abandoned() const { return cancellation_ && cancellation_->requested(); }

void Responder::on_abandoned(std::function<void()> action) {
  if (cancellation_) cancellation_->on_request(std::move(action));
}

struct Server::State {
  struct Entry {
    std::shared_ptr<Connection> connection;
    std::shared_ptr<const Peer> peer;  // once its hello is here
  };

  ServerCallbacks callbacks;
  uint16_t port = 0;

  mutable std::mutex mutex;
  std::unordered_map<const Connection*, Entry> connections;
  std::unordered_map<NodeId, Traffic> past;  // of closed connections
  std::unordered_map<NodeId, std::weak_ptr<PeerBandwidth>> bandwidths;
  Traffic total_past;
  uint64_t last_connection_id = 0;
  TokenBucket complaints{0.2, 3};
  bool stopping = false;

  std::mutex stop_mutex;  // held while `reactor` is being joined
  std::unique_ptr<Reactor> reactor;

  // One for all connections of a node; gone with the last of them.
  std::shared_ptr<PeerBandwidth> bandwidth_of(const NodeId& node, uint64_t upload, uint64_t download) {
    const std::lock_guard lock(mutex);
    if (bandwidths.size() > 2 * connections.size() + 16)
      std::erase_if(bandwidths, [](const auto& entry) { return entry.second.expired(); });
    std::weak_ptr<PeerBandwidth>& known = bandwidths[node];
    std::shared_ptr<PeerBandwidth> bandwidth = known.lock();
    if (!bandwidth) known = bandwidth = std::make_shared<PeerBandwidth>(upload, download);
    return bandwidth;
  }

  void on_accept(const std::shared_ptr<Connection>& connection) {
    const std::lock_guard lock(mutex);
    connections[connection.get()].connection = connection;
    if (stopping) connection->close(unavailable("the server is shutting down"));
  }

  void on_open(const std::shared_ptr<Connection>& connection, const Session::Event& hello) {
    auto peer = std::make_shared<Peer>();
    peer->id = connection->peer_id();
    peer->address = connection->peer_address();
    peer->software = hello.software;
    peer->role = hello.role;
    peer->encrypted = connection->encrypted();
    {
      const std::lock_guard lock(mutex);
      peer->connection_id = ++last_connection_id;
      connections[connection.get()].peer = peer;
    }
    if (callbacks.on_connect) callbacks.on_connect(*peer);
  }

  void on_message(const std::shared_ptr<Connection>& connection, Session::Event event,
                  std::shared_ptr<StreamState> stream) {
    std::shared_ptr<const Peer> peer;
    {
      const std::lock_guard lock(mutex);
      peer = connections[connection.get()].peer;
    }
    if (stream) {
      ServerStream handle(std::move(stream));
      if (callbacks.stream_handler)
        return callbacks.stream_handler(*peer, event.method, std::move(event.message.body), std::move(handle));
      return handle.respond(not_found("no stream '" + printable(event.method, max_method_bytes) + "'"));
    }
    std::optional<std::chrono::milliseconds> timeout;
    if (event.timeout_ms > 0) timeout = std::chrono::milliseconds(event.timeout_ms);
    Responder respond(
        [weak = std::weak_ptr(connection), call_id = event.call_id](Result<Message> response) {
          if (const auto strong = weak.lock()) strong->send_response(call_id, std::move(response));
        },
        event.cancellation, timeout);
    callbacks.handler(*peer, event.method, std::move(event.message), std::move(respond));
  }

  void on_closed(const std::shared_ptr<Connection>& connection, const Status& why, bool opened) {
    Entry entry;
    {
      const std::lock_guard lock(mutex);
      const auto it = connections.find(connection.get());
      entry = std::move(it->second);
      connections.erase(it);
      const Traffic traffic = connection->traffic();
      add(total_past, traffic);
      if (opened) {
        if (past.size() >= max_remembered_nodes && !past.contains(entry.peer->id)) past.erase(past.begin());
        add(past[entry.peer->id], traffic);
      }
    }
    if (!opened && why.code() == Code::unsupported) {
      // Somebody's set-up is wrong, ours or theirs. Said now and then, or strangers could fill the log.
      bool say = false;
      {
        const std::lock_guard lock(mutex);
        say = complaints.take(std::chrono::steady_clock::now());
      }
      log(say ? LogLevel::warning : LogLevel::debug, "mesh", why.message());
    } else if (!opened) {
      log(LogLevel::debug, "mesh", "a connection ended before its hello: " + why.to_string());
    } else if (callbacks.on_disconnect) {
      callbacks.on_disconnect(*entry.peer, why);
    }
  }
};

Server::Server(std::shared_ptr<State> state) : state_(std::move(state)) {}

Result<std::unique_ptr<Server>> Server::start(const Identity& identity, const ServerOptions& options,
                                              ServerCallbacks callbacks) {
  if (!callbacks.handler) return invalid_argument("a server needs a handler");
  SPORKLE_ASSIGN_OR_RETURN(std::shared_ptr<const TlsContext> tls, TlsContext::create(identity));
  auto state = std::make_shared<State>();
  state->callbacks = std::move(callbacks);
  SPORKLE_ASSIGN_OR_RETURN(state->reactor, Reactor::create(options.threads));
  std::unique_ptr<Server> server(new Server(state));
  State* const raw = state.get();  // outlives the reactor's threads, which are all that use it
  ConnectionOptions connection_options;
  connection_options.handshake_timeout = options.handshake_timeout;
  connection_options.keep_alive_interval = options.keep_alive_interval;
  connection_options.keep_alive_timeout = options.keep_alive_timeout;
  connection_options.session = {options.software, options.role, options.limits, false};
  connection_options.plaintext = options.plaintext;
  if (options.upload_limit_bytes_per_s > 0 || options.download_limit_bytes_per_s > 0)
    connection_options.bandwidth = [raw, upload = options.upload_limit_bytes_per_s,
                                    download = options.download_limit_bytes_per_s](const NodeId& node) {
      return raw->bandwidth_of(node, upload, download);
    };
  ConnectionEvents events;
  events.on_open = [raw](const std::shared_ptr<Connection>& connection, const Session::Event& hello) {
    raw->on_open(connection, hello);
  };
  events.on_message = [raw](const std::shared_ptr<Connection>& connection, Session::Event event,
                            std::shared_ptr<StreamState> stream) {
    raw->on_message(connection, std::move(event), std::move(stream));
  };
  events.on_closed = [raw](const std::shared_ptr<Connection>& connection, const Status& why, bool opened) {
    raw->on_closed(connection, why, opened);
  };
  const auto on_accept = [raw](const std::shared_ptr<Connection>& connection) { raw->on_accept(connection); };
  SPORKLE_ASSIGN_OR_RETURN(
      state->port,
      state->reactor->listen(options.host, options.port, std::move(tls), connection_options,
                             {options.max_connections, options.max_handshakes, options.max_handshakes_per_address},
                             on_accept, std::move(events)));
  return server;
}

Server::~Server() { stop(); }

uint16_t Server::port() const { return state_->port; }

size_t Server::connection_count() const {
  const std::lock_guard lock(state_->mutex);
  size_t count = 0;
  for (const auto& [key, entry] : state_->connections) count += entry.peer != nullptr;
  return count;
}

Traffic Server::traffic(const NodeId& node) const {
  const std::lock_guard lock(state_->mutex);
  const auto it = state_->past.find(node);
  Traffic sum = it == state_->past.end() ? Traffic{} : it->second;
  for (const auto& [key, entry] : state_->connections)
    if (entry.peer && entry.peer->id == node) add(sum, entry.connection->traffic());
  return sum;
}

Traffic Server::total_traffic() const {
  const std::lock_guard lock(state_->mutex);
  Traffic sum = state_->total_past;
  for (const auto& [key, entry] : state_->connections) add(sum, entry.connection->traffic());
  return sum;
}

void Server::disconnect(const NodeId& node, const Status& why) {
  const std::lock_guard lock(state_->mutex);
  for (const auto& [key, entry] : state_->connections)
    if (entry.peer && entry.peer->id == node) entry.connection->close(why);
}

void Server::stop() {
  const std::lock_guard stopping(state_->stop_mutex);
  if (!state_->reactor) return;
  state_->reactor->stop_listening();
  {
    const std::lock_guard lock(state_->mutex);
    state_->stopping = true;
    for (const auto& [key, entry] : state_->connections)
      entry.connection->close(unavailable("the server is shutting down"));
  }
  state_->reactor.reset();
}

}  // namespace sporkle::mesh
