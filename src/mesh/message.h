// Message: what a call carries each way. The mesh moves both parts and looks into neither. A plain value: move it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace sporkle::mesh {

struct Message {
  std::string body;                // the layer above's serialized protobuf; small (Limits::max_body_bytes)
  std::vector<std::byte> payload;  // raw bytes such as tensors; large (Limits::max_payload_bytes)
};

// Bytes that nobody changes any more, and whoever keeps them alive: many connections may send the same ones without
// copies. A plain value.
struct SharedBytes {
  std::shared_ptr<const void> owner;
  std::span<const std::byte> bytes;

  SharedBytes() = default;
  SharedBytes(std::shared_ptr<const void> keeps_alive, std::span<const std::byte> view)
      : owner(std::move(keeps_alive)), bytes(view) {}
  explicit SharedBytes(std::vector<std::byte> content) {
    if (content.empty()) return;
    auto shared = std::make_shared<const std::vector<std::byte>>(std::move(content));
    bytes = *shared;
    owner = std::move(shared);
  }
};

// What one connection may send and may be sent. Both ends check what arrives before they allocate for it, and refuse
// to send more than their own limits allow.
struct Limits {
  size_t max_body_bytes = size_t{1} << 20;
  size_t max_payload_bytes = size_t{1} << 30;
  // Sum of the announced payloads of all messages still arriving on one connection, of the requests that have not been
  // answered yet, and of the windows of its streams.
  size_t max_arriving_bytes = size_t{2} << 30;
  size_t max_calls_in_flight = 1024;
  // Of each stream, so much may have been sent to us and not yet been read by the program.
  uint32_t stream_window_bytes = uint32_t{4} << 20;
};

// Bytes on the wire of one or more connections: everything above TCP, TLS records and handshake included.
struct Traffic {
  uint64_t bytes_sent = 0;
  uint64_t bytes_received = 0;
};

}  // namespace sporkle::mesh
