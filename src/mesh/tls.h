// TLS 1.3 with both sides authenticated by their Ed25519 keys, over a socket that somebody else waits on.
//
// Certificates are self-signed wrappers around the keys: names, dates and issuers are ignored, the key's hash is what
// counts, and the handshake proves that the peer holds the private half. No session resumption: both sides prove
// themselves on every connection. A TlsContext is immutable and thread-safe; a TlsStream belongs to one thread at a
// time, its traffic() to any.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "mesh/identity.h"
#include "mesh/message.h"
#include "mesh/node_id.h"

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

 private:
  explicit TlsContext(ssl_ctx_st* context) : context_(context) {}
  ssl_ctx_st* context_;
};

class TlsStream {
 public:
  enum class Side { client, server };
  enum class Progress {
    done,
    want_read,   // call again, with the same arguments, once the socket is readable
    want_write,  // likewise, writable
    closed,      // the peer ended the connection
    failed,      // error() says why
  };

  // The descriptor stays the caller's and must outlive the stream. May be non-blocking.
  TlsStream(std::shared_ptr<const TlsContext> context, int descriptor, Side side);
  ~TlsStream();
  TlsStream(const TlsStream&) = delete;
  TlsStream& operator=(const TlsStream&) = delete;

  Progress handshake();
  // At least one byte when `done`.
  Progress read(std::span<std::byte> into, size_t& count);
  // Takes some of the bytes, many records' worth, and gives the kernel what that becomes. What the kernel does not take
  // is kept and goes first the next time; `want_write`, with no bytes taken, while some of it is left.
  Progress write(std::span<const std::byte> from, size_t& count);
  // `done` when the kernel has all that was written.
  Progress flush();
  // Tells the peer that nothing more will be written.
  Progress close_notify();

  // After the handshake: whose key the peer holds.
  Result<NodeId> peer_id() const;
  const std::string& error() const { return error_; }
  Traffic traffic() const { return {socket_.sent.load(), socket_.received.load()}; }

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

  std::shared_ptr<const TlsContext> context_;
  Socket socket_;
  ssl_st* ssl_ = nullptr;
  std::string error_;
};

}  // namespace sporkle::mesh
