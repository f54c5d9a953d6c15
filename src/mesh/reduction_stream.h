// The sockets of a reduction: listening, connecting, and non-blocking streams of bytes. Internal to mesh/.
//
// A stream belongs to one thread at a time and owns its descriptor, as a listener does.
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/status.h"
#include "mesh/node_id.h"
#include "mesh/run_link.h"
#include "mesh/tls.h"

namespace sporkle::mesh {

// A file descriptor that closes itself.
class Descriptor {
 public:
  explicit Descriptor(int value = -1) : value_(value) {}
  Descriptor(Descriptor&& other) noexcept : value_(other.release()) {}
  Descriptor& operator=(Descriptor&& other) noexcept;
  ~Descriptor();
  int get() const { return value_; }
  int release();

 private:
  int value_;
};

class ReductionListener {
 public:
  // Port 0: any free one. already_exists when the port is taken.
  static Result<ReductionListener> open(const std::string& host, uint16_t port);
  uint16_t port() const { return port_; }
  int descriptor() const { return descriptor_.get(); }
  // The next connection that has come; nothing when none has.
  std::optional<Descriptor> accept() const;

 private:
  ReductionListener(Descriptor descriptor, uint16_t port) : descriptor_(std::move(descriptor)), port_(port) {}
  Descriptor descriptor_;
  uint16_t port_;
};

class ReductionStream {
 public:
  enum class Side { connects, accepts };

  // Begins to connect.
  static Result<Descriptor> connect(const Address& address);
  // Over TLS with a context, else in plain text.
  static std::unique_ptr<ReductionStream> create(Descriptor descriptor, std::shared_ptr<const TlsContext> tls,
                                                 Side side);
  virtual ~ReductionStream() = default;

  int descriptor() const { return descriptor_.get(); }
  // The system's estimate; 0 where it has none.
  std::chrono::microseconds round_trip_time() const;
  // True when connected and, over TLS, both sides have proved who they are; false: not yet.
  virtual Result<bool> establish() = 0;
  // Whose key the peer has proved to hold; nothing in plain text.
  virtual std::optional<NodeId> peer_id() const = 0;
  // So many bytes went, to `first` and then to `second` (which may be left out until the first is full); 0: none now.
  // unavailable when the connection is over.
  virtual Result<size_t> read(std::span<std::byte> first, std::span<std::byte> second) = 0;
  virtual Result<size_t> write(std::span<const std::byte> first, std::span<const std::byte> second) = 0;

 protected:
  explicit ReductionStream(Descriptor descriptor) : descriptor_(std::move(descriptor)) {}
  Descriptor descriptor_;
};

}  // namespace sporkle::mesh
