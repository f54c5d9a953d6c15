// The sockets and threads under Client and Server. Internal to mesh/: this header keeps Boost.Asio inside transport.cc.
//
// A Reactor owns threads that move bytes. A Connection is one socket, its TLS stream and its Session; it runs on the
// reactor's threads, on one at a time, keeps itself alive until it has closed, and may be held (and called) longer.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "base/status.h"
#include "mesh/bandwidth.h"
#include "mesh/message.h"
#include "mesh/node_id.h"
#include "mesh/run_link.h"
#include "mesh/session.h"
#include "mesh/stream.h"
#include "mesh/tls.h"

namespace sporkle::mesh {

struct ConnectionOptions {
  std::chrono::milliseconds handshake_timeout{10'000};  // until the peer's hello, name look-up included
  std::chrono::milliseconds keep_alive_interval{10'000};
  std::chrono::milliseconds keep_alive_timeout{30'000};
  Session::Options session;
  // Without encryption: a client asks for it, a server allows it to those that ask.
  bool plaintext = false;
  // Of a client: to resume TLS sessions from; may be null.
  std::shared_ptr<TlsSessionCache> sessions;
  // The limits of a peer, asked once its key is known; may be empty.
  std::function<std::shared_ptr<PeerBandwidth>(const NodeId&)> bandwidth;
};

// All methods are thread-safe and return at once; once the connection has closed they do nothing.
class Connection {
 public:
  virtual ~Connection() = default;
  // `timeout_ms` is told to the server; 0: none.
  virtual void send_request(uint64_t call_id, std::string method, Message request, uint64_t timeout_ms) = 0;
  // `stream` hears of all that happens to it, of the connection's end too.
  virtual void open_stream(uint64_t call_id, std::string method, std::string body, uint64_t timeout_ms,
                           std::shared_ptr<StreamState> stream) = 0;
  virtual void stream_write(uint64_t call_id, SharedBytes bytes) = 0;
  virtual void stream_finish(uint64_t call_id) = 0;
  virtual void stream_consumed(uint64_t call_id, size_t size_bytes) = 0;
  virtual void cancel(uint64_t call_id) = 0;
  virtual void send_response(uint64_t call_id, Result<Message> response) = 0;
  // Tells the peer why and closes, within a fraction of a second whatever the peer does.
  virtual void close(Status why) = 0;

  virtual Traffic traffic() const = 0;
  // Valid from on_open on.
  virtual const NodeId& peer_id() const = 0;
  virtual const std::string& peer_address() const = 0;  // "host:port"
  virtual bool encrypted() const = 0;
  virtual bool resumed() const = 0;  // its TLS session went on from an earlier one
};

// Called on the reactor's threads, those of one connection one after another.
struct ConnectionEvents {
  // The handshake is done and the peer's hello is here.
  std::function<void(const std::shared_ptr<Connection>&, const Session::Event& hello)> on_open;
  // A request, a response, or a stream that the peer opened: that has its state, and none other.
  std::function<void(const std::shared_ptr<Connection>&, Session::Event event, std::shared_ptr<StreamState> stream)>
      on_message;
  // Last, exactly once. `opened` says whether on_open came before.
  std::function<void(const std::shared_ptr<Connection>&, const Status& why, bool opened)> on_closed;
};

struct AcceptLimits {
  size_t connections;  // through the handshake
  size_t handshakes;   // under way (handshake_gate.h)
  size_t handshakes_of_an_address;
};

class Reactor {
 public:
  struct Io;  // Boost.Asio's part
  using OnAccept = std::function<void(const std::shared_ptr<Connection>&)>;

  // unavailable when the system has no threads or descriptors left.
  static Result<std::unique_ptr<Reactor>> create(unsigned threads);
  // Waits for all connections to close, so close them first.
  ~Reactor();
  Reactor(const Reactor&) = delete;
  Reactor& operator=(const Reactor&) = delete;

  // Accepts connections from now on; each is passed to `on_accept` before anything else happens to it. While there are
  // limits.connections through the handshake, the system's queue holds further ones. Returns the port.
  Result<uint16_t> listen(const std::string& host, uint16_t port, std::shared_ptr<const TlsContext> tls,
                          const ConnectionOptions& options, const AcceptLimits& limits, OnAccept on_accept,
                          ConnectionEvents events);
  // No connection is accepted from then on.
  void stop_listening();

  // Connects and checks that the peer holds the key of `expected`.
  std::shared_ptr<Connection> connect(const Address& address, const NodeId& expected,
                                      std::shared_ptr<const TlsContext> tls, const ConnectionOptions& options,
                                      ConnectionEvents events);

 private:
  explicit Reactor(std::shared_ptr<Io> io) : io_(std::move(io)) {}
  std::shared_ptr<Io> io_;
};

}  // namespace sporkle::mesh
