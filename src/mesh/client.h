// Client: one authenticated connection to a server, and calls over it.
//
// A Client owns its socket and one thread. Every call is thread-safe; the destructor closes the connection, and must
// not run while another thread is still inside call(). A lost connection stays lost: connect a new Client (retry.h has
// the waits between attempts).
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/status.h"
#include "mesh/channel.h"
#include "mesh/identity.h"
#include "mesh/message.h"
#include "mesh/run_link.h"
#include "mesh/stream.h"
#include "mesh/tls_session_cache.h"

namespace sporkle::mesh {

struct ClientOptions {
  std::chrono::milliseconds connect_timeout{10'000};  // over all addresses of the link together
  // How long an address may be silent before the next one is tried beside it (RFC 8305, "happy eyeballs").
  std::chrono::milliseconds connect_stagger{100};
  // A ping goes out when nothing has arrived for the interval; the connection is lost when nothing has for the timeout.
  std::chrono::milliseconds keep_alive_interval{10'000};
  std::chrono::milliseconds keep_alive_timeout{30'000};
  std::string software = "sporkle";  // name and version of the program, told to the server
  std::string role = "worker";       // what this peer is for, told to the server
  Limits limits;
  // Asks for a connection without encryption, which only a server that allows it gives; there is no falling back either
  // way.
  bool plaintext = false;
  // Where TLS sessions are kept to be resumed by the next connection; may be null.
  std::shared_ptr<TlsSessionCache> sessions;
  // Bytes a second; 0: no limit.
  uint64_t upload_limit_bytes_per_s = 0;
  uint64_t download_limit_bytes_per_s = 0;
};

class Client : public Channel {
 public:
  // Tries the link's addresses in order, the next one when one fails or is silent for a while, and takes the first
  // where the link's key answers; address_order.h has the order that suits. Errors: unavailable when none answers,
  // permission_denied when the key found there is not the link's (the message has both short IDs), unsupported when the
  // peer speaks another major protocol version (the message has both versions), deadline_exceeded.
  static Result<std::unique_ptr<Client>> connect(const RunLink& link, const Identity& identity,
                                                 const ClientOptions& options = {});
  ~Client() override;

  Result<Message> call(std::string_view method, Message request, std::chrono::milliseconds timeout) override;
  void close() override;
  Traffic traffic() const override;

  // The same without blocking: `on_done` gets the answer, exactly once, on the client's thread (or on this one when the
  // call cannot even start, or when close() ends it). It must not block, close or destroy the Client; it may start more
  // calls. There is no deadline: the call ends with its answer, the connection or cancel_call(). Returns the call's
  // number, 0 when it has ended already.
  using OnDone = std::function<void(Result<Message>)>;
  uint64_t start_call(std::string_view method, Message request, OnDone on_done);
  // Opens a stream (stream.h) to the server's handler of this method; `body` goes with the opening. It ends after
  // `timeout` at the latest; 0: never. Does not wait for the server. Errors: unsupported when the server's version of
  // the protocol has no streams, else as start_call.
  Result<ClientStream> open_stream(std::string_view method, std::string body, std::chrono::milliseconds timeout);

  // Gives up a started call, whose `on_done` then gets `cancelled` on this thread; nothing when it has ended already.
  void cancel_call(uint64_t call_id);

  // False from the moment that the loss of the connection is known.
  bool connected() const;
  bool encrypted() const;
  // Whether the TLS session went on from an earlier connection's.
  bool resumed() const;
  // The protocol's minor version that both sides speak.
  uint32_t protocol_minor_version() const;
  // What the server said of itself.
  const std::string& server_software() const;
  // The address of the link that answered.
  const Address& server_address() const;

 private:
  struct State;
  explicit Client(std::shared_ptr<State> state);
  std::shared_ptr<State> state_;
};

}  // namespace sporkle::mesh
