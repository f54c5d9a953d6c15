#include "mesh/frame.h"

#include <zstd.h>

#include <algorithm>
#include <cassert>
#include <memory>
#include <string>

#include "mesh/crc32c.h"

namespace sporkle::mesh {
namespace {

constexpr uint32_t magic = 0x4C4B5053;  // "SPKL"
constexpr uint16_t flag_zstd = 1;

// Offsets in the header; all integers are little-endian.
constexpr size_t at_magic = 0;
constexpr size_t at_version = 4;
constexpr size_t at_kind = 5;
constexpr size_t at_flags = 6;
constexpr size_t at_call_id = 8;
constexpr size_t at_wire_bytes = 16;
constexpr size_t at_data_bytes = 20;
constexpr size_t at_data_checksum = 24;
constexpr size_t at_header_checksum = 28;

template <typename T>
void store(std::byte* at, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) at[i] = static_cast<std::byte>(value >> (8 * i));
}

template <typename T>
T load(const std::byte* at) {
  T value = 0;
  for (size_t i = 0; i < sizeof(T); ++i) value = static_cast<T>(value | std::to_integer<T>(at[i]) << (8 * i));
  return value;
}

// Contexts cost hundreds of KiB: one a thread, not one a connection.
ZSTD_CCtx* compression_context() {
  thread_local const std::unique_ptr<ZSTD_CCtx, decltype(&ZSTD_freeCCtx)> context(ZSTD_createCCtx(), ZSTD_freeCCtx);
  return context.get();
}

ZSTD_DCtx* decompression_context() {
  thread_local const std::unique_ptr<ZSTD_DCtx, decltype(&ZSTD_freeDCtx)> context(ZSTD_createDCtx(), ZSTD_freeDCtx);
  return context.get();
}

size_t data_limit(FrameKind kind, const FrameLimits& limits) {
  switch (kind) {
    case FrameKind::request:
    case FrameKind::response:
      return limits.max_envelope_bytes;
    case FrameKind::chunk:
      return max_chunk_bytes;
    default:
      return max_control_bytes;
  }
}

}  // namespace

bool encode_frame(const Frame& frame, bool try_compress, std::vector<std::byte>& out) {
  assert(frame.data.size() <= UINT32_MAX);
  const size_t start = out.size();
  const size_t size = frame.data.size();
  size_t wire_size = size;
  bool compressed = false;
  out.resize(start + frame_header_bytes);
  if (try_compress && size > 0 && compression_context()) {
    // Room for one byte less than the data: zstd fails, early, when it would not shrink it.
    out.resize(start + frame_header_bytes + size - 1);
    const size_t result = ZSTD_compressCCtx(compression_context(), out.data() + start + frame_header_bytes, size - 1,
                                            frame.data.data(), size, 1);
    compressed = !ZSTD_isError(result);
    if (compressed) wire_size = result;
    out.resize(start + frame_header_bytes + (compressed ? wire_size : 0));
  }
  if (!compressed) out.insert(out.end(), frame.data.begin(), frame.data.end());
  std::byte* header = out.data() + start;
  store(header + at_magic, magic);
  store(header + at_version, frame.version);
  store(header + at_kind, static_cast<uint8_t>(frame.kind));
  store(header + at_flags, compressed ? flag_zstd : uint16_t{0});
  store(header + at_call_id, frame.call_id);
  store(header + at_wire_bytes, static_cast<uint32_t>(wire_size));
  store(header + at_data_bytes, static_cast<uint32_t>(size));
  store(header + at_data_checksum, crc32c({header + frame_header_bytes, wire_size}));
  store(header + at_header_checksum, crc32c({header, at_header_checksum}));
  return compressed;
}

void FrameDecoder::push(std::span<const std::byte> bytes) {
  if (!failure_.ok()) return;
  if (begin_ > 0) {
    buffer_.erase(buffer_.begin(), buffer_.begin() + static_cast<std::ptrdiff_t>(begin_));
    begin_ = 0;
  }
  buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
}

Result<bool> FrameDecoder::next(Frame& frame) {
  if (!failure_.ok()) return failure_;
  Result<bool> result = decode(frame);
  if (!result.ok()) failure_ = result.status();
  return result;
}

Result<bool> FrameDecoder::decode(Frame& frame) {
  if (buffer_.size() - begin_ < frame_header_bytes) return false;
  const std::byte* header = buffer_.data() + begin_;
  if (load<uint32_t>(header + at_magic) != magic) return corrupt_data("no frame of the sporkle protocol: wrong magic");
  if (load<uint32_t>(header + at_header_checksum) != crc32c({header, at_header_checksum}))
    return corrupt_data("frame header fails its checksum");
  const auto version = load<uint8_t>(header + at_version);
  const auto kind_number = load<uint8_t>(header + at_kind);
  const auto flags = load<uint16_t>(header + at_flags);
  const size_t wire_size = load<uint32_t>(header + at_wire_bytes);
  const size_t data_size = load<uint32_t>(header + at_data_bytes);
  frame.version = version;
  frame.kind = static_cast<FrameKind>(kind_number);
  frame.call_id = load<uint64_t>(header + at_call_id);
  // Hello and goodbye keep their form in every version, so that peers of different versions can say so.
  if (version != protocol_major && frame.kind != FrameKind::hello && frame.kind != FrameKind::goodbye)
    return unsupported("frame of protocol version " + std::to_string(version) + "; this program speaks version " +
                       std::to_string(protocol_major));
  if (kind_number < static_cast<uint8_t>(FrameKind::hello) || kind_number > static_cast<uint8_t>(FrameKind::goodbye))
    return corrupt_data("frame of unknown kind " + std::to_string(kind_number));
  if (flags & ~flag_zstd) return corrupt_data("frame with unknown flags " + std::to_string(flags));
  const bool compressed = flags & flag_zstd;
  const size_t limit = data_limit(frame.kind, limits_);
  if (data_size > limit)
    return corrupt_data("frame with " + std::to_string(data_size) + " bytes of data; at most " + std::to_string(limit) +
                        " are allowed in one of its kind");
  if (compressed ? wire_size >= data_size : wire_size != data_size)
    return corrupt_data("frame whose lengths, " + std::to_string(wire_size) + " on the wire and " +
                        std::to_string(data_size) + " of data, contradict each other");
  if (buffer_.size() - begin_ - frame_header_bytes < wire_size) return false;
  const std::span<const std::byte> wire(header + frame_header_bytes, wire_size);
  if (load<uint32_t>(header + at_data_checksum) != crc32c(wire)) return corrupt_data("frame data fails its checksum");
  frame.data = wire;
  if (compressed) {
    if (!decompression_context()) return Status(Code::out_of_memory, "no memory to decompress a frame");
    decompressed_.resize(data_size);
    // Writes at most data_size bytes, which is bounded above: a "zip bomb" is an error, not an allocation.
    const size_t result =
        ZSTD_decompressDCtx(decompression_context(), decompressed_.data(), data_size, wire.data(), wire.size());
    if (ZSTD_isError(result))
      return corrupt_data(std::string("frame data cannot be decompressed: ") + ZSTD_getErrorName(result));
    if (result != data_size)
      return corrupt_data("frame data decompresses to " + std::to_string(result) + " bytes instead of " +
                          std::to_string(data_size));
    frame.data = decompressed_;
  }
  begin_ += frame_header_bytes + wire_size;
  return true;
}

}  // namespace sporkle::mesh
