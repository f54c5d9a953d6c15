// Message: what a call carries each way. The mesh moves both parts and looks into neither. A plain value: move it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace sporkle::mesh {

struct Message {
  std::string body;                // the layer above's serialized protobuf; small (Limits::max_body_bytes)
  std::vector<std::byte> payload;  // raw bytes such as tensors; large (Limits::max_payload_bytes)
};

// What one connection may send and may be sent. Both ends check what arrives before they allocate for it, and refuse
// to send more than their own limits allow.
struct Limits {
  size_t max_body_bytes = size_t{1} << 20;
  size_t max_payload_bytes = size_t{1} << 30;
  // Sum of the announced payloads of all messages still arriving on one connection.
  size_t max_arriving_bytes = size_t{2} << 30;
  size_t max_calls_in_flight = 1024;
};

// Bytes on the wire of one or more connections: everything above TCP, TLS records and handshake included.
struct Traffic {
  uint64_t bytes_sent = 0;
  uint64_t bytes_received = 0;
};

}  // namespace sporkle::mesh
