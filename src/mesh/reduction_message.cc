#include "mesh/reduction_message.h"

#include <string>

#include "mesh/crc32c.h"
#include "mesh/little_endian.h"

namespace sporkle::mesh {
namespace {

constexpr uint32_t magic = 0x524B5053;  // "SPKR"
constexpr uint8_t version = 1;
constexpr uint16_t flag_done = 1;
constexpr size_t hello_payload_bytes = 64;

// Offsets; all integers are little-endian.
constexpr size_t at_magic = 0;
constexpr size_t at_version = 4;
constexpr size_t at_kind = 5;
constexpr size_t at_flags = 6;
constexpr size_t at_operation = 8;
constexpr size_t at_view = 16;
constexpr size_t at_members = 24;
constexpr size_t at_accepted = 32;
constexpr size_t at_chunk = 40;
constexpr size_t at_payload_bytes = 44;
constexpr size_t at_zero = 48;
constexpr size_t at_checksum = 52;

// Whether so much payload may follow a message of this kind.
bool fits(ReductionKind kind, uint32_t payload_bytes) {
  switch (kind) {
    case ReductionKind::hello:
      return payload_bytes == hello_payload_bytes;
    case ReductionKind::contribution:
    case ReductionKind::result:
      return payload_bytes > 0 && payload_bytes <= max_reduction_chunk_bytes;
    default:
      return payload_bytes == 0;
  }
}

}  // namespace

void encode_reduction(const ReductionMessage& message, std::span<std::byte, reduction_header_bytes> out) {
  store(&out[at_magic], magic);
  store(&out[at_version], version);
  store(&out[at_kind], static_cast<uint8_t>(message.kind));
  store(&out[at_flags], message.done ? flag_done : uint16_t{0});
  store(&out[at_operation], message.operation);
  store(&out[at_view], message.view);
  store(&out[at_members], message.members);
  store(&out[at_accepted], message.accepted);
  store(&out[at_chunk], message.chunk);
  store(&out[at_payload_bytes], message.payload_bytes);
  store(&out[at_zero], uint32_t{0});
  store(&out[at_checksum], crc32c(out.first(at_checksum)));
}

Result<ReductionMessage> decode_reduction(std::span<const std::byte, reduction_header_bytes> header) {
  if (load<uint32_t>(&header[at_magic]) != magic) return corrupt_data("no message of a reduction: wrong magic");
  if (load<uint32_t>(&header[at_checksum]) != crc32c(header.first(at_checksum)))
    return corrupt_data("the header of a reduction's message fails its checksum");
  if (const auto found = load<uint8_t>(&header[at_version]); found != version)
    return unsupported("the peer speaks version " + std::to_string(found) + " of the reduction protocol, this side " +
                       std::to_string(version));
  const auto kind = load<uint8_t>(&header[at_kind]);
  if (kind < static_cast<uint8_t>(ReductionKind::hello) || kind > static_cast<uint8_t>(ReductionKind::alive))
    return corrupt_data("a reduction's message of the unknown kind " + std::to_string(kind));
  const auto flags = load<uint16_t>(&header[at_flags]);
  if (flags & ~flag_done || load<uint32_t>(&header[at_zero]) != 0)
    return corrupt_data("a reduction's message has bits set that mean nothing");
  ReductionMessage message;
  message.kind = static_cast<ReductionKind>(kind);
  message.done = flags & flag_done;
  message.operation = load<uint64_t>(&header[at_operation]);
  message.view = load<uint64_t>(&header[at_view]);
  message.members = load<uint64_t>(&header[at_members]);
  message.accepted = load<uint64_t>(&header[at_accepted]);
  message.chunk = load<uint32_t>(&header[at_chunk]);
  message.payload_bytes = load<uint32_t>(&header[at_payload_bytes]);
  if (!fits(message.kind, message.payload_bytes))
    return corrupt_data("a reduction's message of kind " + std::to_string(kind) + " with a payload of " +
                        std::to_string(message.payload_bytes) + " bytes");
  return message;
}

}  // namespace sporkle::mesh
