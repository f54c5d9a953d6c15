// TLS 1.3 with both sides authenticated by their Ed25519 keys, over a socket that somebody else waits on.
//
// Certificates are self-signed wrappers around the keys: names, dates and issuers are ignored, the key's hash is what
// counts, and the handshake proves that the peer holds the private half. A client that comes back may resume its last
// session (TlsSessionCache); the server keeps nothing for that: the ticket holds the session, the client's key
// included, under a key that only this TlsContext knows. A TlsContext is immutable and thread-safe.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "mesh/identity.h"
#include "mesh/message.h"
#include "mesh/node_id.h"
#include "mesh/tls_session_cache.h"
#include "mesh/wire_stream.h"

struct ssl_ctx_st;
struct ssl_st;

namespace sporkle::mesh {

class TlsContext {
 public:
  static Result<std::shared_ptr<const TlsContext>> create(const Identity& identity);
  ~TlsContext();
  TlsContext(const TlsContext&) = delete;
  TlsContext& operator=(const TlsContext&) = delete;
  ssl_ctx_st* native() const { return context_; }
  const Identity& identity() const { return identity_; }

 private:
  TlsContext(ssl_ctx_st* context, const Identity& identity) : context_(context), identity_(identity) {}
  ssl_ctx_st* context_;
  const Identity identity_;
};

class TlsStream : public WireStream {
 public:
  // With `cache` a client tries to resume the last session with `expected`, and leaves what the next one needs.
  TlsStream(std::shared_ptr<const TlsContext> context, int descriptor, Side side,
            std::shared_ptr<TlsSessionCache> cache = nullptr, const NodeId& expected = {});
  ~TlsStream() override;
  TlsStream(const TlsStream&) = delete;
  TlsStream& operator=(const TlsStream&) = delete;

  // Of a server, before the first handshake(): what goes out behind its own part of the handshake, a round trip before
  // it knows who the client is; so nothing that a stranger may not read.
  void greet(std::vector<std::byte> greeting) { greeting_ = std::move(greeting); }

  Progress handshake() override;
  Progress read(std::span<std::byte> into, size_t& count) override;
  Progress write(std::span<const std::byte> from, size_t& count) override;
  Progress flush() override;
  Progress close_notify() override;
  Result<NodeId> peer_id() const override;
  const std::string& error() const override { return error_; }
  Traffic traffic() const override { return {socket_.sent.load(), socket_.received.load()}; }
  bool encrypted() const override { return true; }
  bool resumed() const override;

  // OpenSSL's word that the peer sent a ticket; public for that alone.
  void keep_session(std::shared_ptr<ssl_session_st> session);

  // What the socket adapter works on; public for it alone.
  struct Socket {
    int descriptor = -1;
    std::atomic<uint64_t> sent{0};
    std::atomic<uint64_t> received{0};
    std::vector<std::byte> unsent;  // the kernel would not take it yet
    size_t unsent_begin = 0;
    int error = 0;  // errno of a failed send; later ones fail alike
  };

 private:
  Progress interpret(int result);
  // A server's part of the handshake, up to where it waits for the client's, and the greeting.
  Progress send_greeting();

  std::shared_ptr<const TlsContext> context_;
  Socket socket_;
  std::shared_ptr<TlsSessionCache> cache_;
  ssl_st* ssl_ = nullptr;
  std::vector<std::byte> greeting_;
  std::string error_;
};

}  // namespace sporkle::mesh
