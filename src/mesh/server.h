// Server: accepts authenticated connections and answers calls.
//
// A Server owns its port, its connections and its threads. Its methods are thread-safe. Callbacks run on the server's
// threads: those of one connection one after another, those of different connections at once when `threads` > 1. They
// must not block for long (hand slow work to a thread of your own and answer later) and must not destroy the Server.
// After stop() or the destructor has returned, no callback runs.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/status.h"
#include "mesh/cancellation.h"
#include "mesh/identity.h"
#include "mesh/message.h"
#include "mesh/node_id.h"
#include "mesh/stream.h"

namespace sporkle::mesh {

// One connection's other end. A node may have several connections.
struct Peer {
  NodeId id;                   // proved by its key
  uint64_t connection_id = 0;  // never used twice by one Server
  std::string address;         // "host:port" as seen here
  std::string software;        // what it says of itself: printable, at most 64 bytes, not to be trusted
  std::string role;            // likewise
  bool encrypted = true;       // false: both ends were started with --plaintext
};

// The answer to one call, owed once: from the handler or later, from any thread. Move-only. A second answer is ignored;
// one dropped without an answer answers `internal`. May outlive the call, the connection and the Server: then the
// answer goes nowhere.
class Responder {
 public:
  using Answer = std::function<void(Result<Message>)>;

  // Tests of the layer above make their own. `timeout`: how long the caller said that it would wait, from now on.
  explicit Responder(Answer answer, std::shared_ptr<Cancellation> cancellation = nullptr,
                     std::optional<std::chrono::milliseconds> timeout = std::nullopt);
  Responder(Responder&&) noexcept;
  Responder& operator=(Responder&&) noexcept;
  ~Responder();

  // The response, or a failure that the caller gets as its own Status (its message is cut at 4 KiB).
  void operator()(Result<Message> response);
  // True once nobody waits for the answer any more: the caller gave up, its deadline passed, or the connection is gone.
  bool abandoned() const;
  // Calls `action` when that happens without an answer having been given: once, on the connection's thread, which it
  // must not block; at once, when it has happened already.
  void on_abandoned(std::function<void()> action);
  // When the caller will have given up; nothing when it did not say. By this machine's steady clock, from the arrival
  // of the request on.
  std::optional<std::chrono::steady_clock::time_point> deadline() const { return deadline_; }

 private:
  Answer answer_;
  std::shared_ptr<Cancellation> cancellation_;
  std::optional<std::chrono::steady_clock::time_point> deadline_;
};

struct ServerOptions {
  std::string host;   // a name or literal address; empty listens on every address, IPv4 and IPv6
  uint16_t port = 0;  // 0 takes any free one
  unsigned threads = 1;
  size_t max_connections = 4096;  // further ones wait in the system's queue
  // Beside these, connections that have not finished the handshake: so many in all, and of one address (of one network
  // of 64 bits in IPv6). Where there are more, the oldest go, first those of the address that has most.
  size_t max_handshakes = 512;
  size_t max_handshakes_per_address = 128;
  std::chrono::milliseconds handshake_timeout{10'000};
  // A ping goes out when nothing has arrived for the interval; the connection is lost when nothing has for the timeout.
  std::chrono::milliseconds keep_alive_interval{10'000};
  std::chrono::milliseconds keep_alive_timeout{30'000};
  std::string software = "sporkle";  // name and version of the program, told to clients
  std::string role = "coordinator";  // what this peer is for, told to clients
  Limits limits;
  bool plaintext = false;  // allows connections without encryption to clients that ask for one; others stay encrypted
  // Bytes a second of each node, all of its connections together; 0: no limit. Upload is what the server sends.
  uint64_t upload_limit_bytes_per_s = 0;
  uint64_t download_limit_bytes_per_s = 0;
};

struct ServerCallbacks {
  // Required. `method` is valid during the call only; every request gets exactly one answer.
  using Handler = std::function<void(const Peer&, std::string_view method, Message request, Responder respond)>;
  Handler handler;
  std::function<void(const Peer&)> on_connect;                        // may be empty
  std::function<void(const Peer&, const Status& why)> on_disconnect;  // may be empty; once for every on_connect
  // A stream that a caller opened, with the body that came with it; may be empty: then they are refused. The callback
  // must not block: hand the stream to a thread of your own, or use read_with().
  using StreamHandler =
      std::function<void(const Peer&, std::string_view method, std::string body, ServerStream stream)>;
  StreamHandler stream_handler;
};

class Server {
 public:
  // Listens and serves at once. Errors: already_exists when the port is taken, permission_denied, invalid_argument when
  // the host is not this machine's.
  static Result<std::unique_ptr<Server>> start(const Identity& identity, const ServerOptions& options,
                                               ServerCallbacks callbacks);
  ~Server();

  uint16_t port() const;
  size_t connection_count() const;

  // All connections of this node since the server began, together (the totals of long-gone nodes may be forgotten).
  Traffic traffic(const NodeId& node) const;
  // Everyone, failed handshakes included.
  Traffic total_traffic() const;

  // Tells every connection of this node why, and closes it.
  void disconnect(const NodeId& node, const Status& why);
  // Closes everything and waits for the threads. Not from a callback. May be called twice.
  void stop();

 private:
  struct State;
  explicit Server(std::shared_ptr<State> state);
  std::shared_ptr<State> state_;
};

}  // namespace sporkle::mesh
