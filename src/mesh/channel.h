// Channel: calls to one peer. Client is the real one; tests of the layer above substitute their own.
#pragma once

#include <chrono>
#include <string_view>

#include "base/status.h"
#include "mesh/message.h"

namespace sporkle::mesh {

class Channel {
 public:
  virtual ~Channel() = default;

  // Sends `request` and blocks until the answer is here. Thread-safe; many calls may be in flight at once, and a small
  // one does not wait for a large one to finish. The peer's failures come back as its Status (code and message). Also:
  // deadline_exceeded after `timeout`, unavailable when the connection is lost, cancelled after close(),
  // invalid_argument when the request is larger than the limits.
  virtual Result<Message> call(std::string_view method, Message request, std::chrono::milliseconds timeout) = 0;

  // Ends the connection; every pending and later call fails with cancelled. Thread-safe, may be called twice.
  virtual void close() = 0;

  virtual Traffic traffic() const = 0;
};

}  // namespace sporkle::mesh
