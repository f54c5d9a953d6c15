// WireStream: what a connection's bytes go through on their way to and from a socket that somebody else waits on.
// TlsStream is the usual one; PlainStream (plain_stream.h) only proves who speaks.
//
// A stream belongs to one thread at a time, its traffic() to any. The descriptor stays the caller's and must outlive
// the stream; it may be non-blocking.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "base/status.h"
#include "mesh/message.h"
#include "mesh/node_id.h"

namespace sporkle::mesh {

class WireStream {
 public:
  enum class Side { client, server };
  enum class Progress {
    done,
    want_read,   // call again, with the same arguments, once the socket is readable
    want_write,  // likewise, writable
    closed,      // the peer ended the connection
    failed,      // error() says why
  };

  virtual ~WireStream() = default;

  virtual Progress handshake() = 0;
  // At least one byte when `done`.
  virtual Progress read(std::span<std::byte> into, size_t& count) = 0;
  // Takes some of the bytes, many records' worth, and gives the kernel what that becomes. What the kernel does not take
  // is kept and goes first the next time; `want_write`, with no bytes taken, while some of it is left.
  virtual Progress write(std::span<const std::byte> from, size_t& count) = 0;
  // `done` when the kernel has all that was written.
  virtual Progress flush() = 0;
  // Tells the peer that nothing more will be written.
  virtual Progress close_notify() = 0;

  // After the handshake: whose key the peer holds.
  virtual Result<NodeId> peer_id() const = 0;
  virtual const std::string& error() const = 0;
  virtual Traffic traffic() const = 0;
  // Whether strangers on the way can neither read nor change what is sent.
  virtual bool encrypted() const = 0;
  // Whether the handshake went on from an earlier connection's.
  virtual bool resumed() const { return false; }
};

}  // namespace sporkle::mesh
