// Streams: bytes of any length both ways within one call, in order, each way no faster than its reader reads.
//
// A writer that gets ahead of the reader at the other end blocks, and neither end holds more than a window of bytes
// (Limits::stream_window_bytes) of a stream, whatever the other does. Both classes are handles: move-only, thread-safe,
// and valid after their connection has gone, whose end every call then reports. They block, so a server's handler uses
// them on a thread of its own, read_with() excepted.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "mesh/message.h"

namespace sporkle::mesh {

struct StreamState;  // stream_state.h

// What both ends have in common.
class Stream {
 public:
  // The next bytes from the other end; empty once it has said that there are no more (or, at the caller's end, once the
  // stream has ended well). deadline_exceeded after `timeout`, and the stream goes on; else why the stream has ended.
  Result<std::vector<std::byte>> read(std::chrono::milliseconds timeout);

  // Instead of read(): `on_data` gets every piece as it arrives, on the connection's thread, and an empty one last.
  // What it has got counts as read when it returns, so it holds the peer back only by the time it takes; it must not
  // block.
  void read_with(std::function<void(std::vector<std::byte>)> on_data);

  // Queues bytes; blocks while a window of them is waiting already. deadline_exceeded after `timeout`, with nothing
  // queued; else why the stream has ended.
  Status write(SharedBytes bytes, std::chrono::milliseconds timeout);
  Status write(std::vector<std::byte> bytes, std::chrono::milliseconds timeout) {
    return write(SharedBytes(std::move(bytes)), timeout);
  }

  // Whether nobody wants more of it: the other end gave up, its deadline passed, or the connection is gone.
  bool ended() const;

 protected:
  explicit Stream(std::shared_ptr<StreamState> state) : state_(std::move(state)) {}
  Stream(Stream&&) noexcept = default;
  Stream& operator=(Stream&&) noexcept = default;
  ~Stream() = default;
  std::shared_ptr<StreamState> state_;
};

// The caller's end. Dropped before it has ended, the stream is cancelled.
class ClientStream : public Stream {
 public:
  explicit ClientStream(std::shared_ptr<StreamState> state) : Stream(std::move(state)) {}
  ClientStream(ClientStream&&) noexcept = default;
  ClientStream& operator=(ClientStream&& other) noexcept;
  ~ClientStream();

  // Nothing more will be written; reading goes on.
  void finish_writing();
  // Waits for the server's response: its body, or the failure it answered. deadline_exceeded after `timeout`, and the
  // stream goes on. What was not read of the stream still can be.
  Result<std::string> result(std::chrono::milliseconds timeout);
  void cancel();
};

// The server's end. Dropped without a response, the caller gets `internal`.
class ServerStream : public Stream {
 public:
  explicit ServerStream(std::shared_ptr<StreamState> state) : Stream(std::move(state)) {}
  ServerStream(ServerStream&&) noexcept = default;
  ServerStream& operator=(ServerStream&& other) noexcept;
  ~ServerStream();

  // Ends the stream: behind all that was written, the body; or at once, the failure. A second one is ignored.
  void respond(Result<std::string> body);
  // Calls `action` when the caller has given up, once, on the connection's thread; now, when it has already.
  void on_cancelled(std::function<void()> action);
};

}  // namespace sporkle::mesh
