#include "mesh/frame.h"

#include <zstd.h>

#include <algorithm>
#include <cassert>
#include <memory>
#include <string>
#include <utility>

#include "mesh/crc32c.h"
#include "mesh/little_endian.h"

namespace sporkle::mesh {
namespace {

constexpr uint32_t magic = 0x4C4B5053;  // "SPKL"
constexpr uint16_t flag_zstd = 1;
constexpr uint16_t flag_unchecked = 2;  // the data have no checksum; its field is 0

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

namespace {

void store_header(const Frame& frame, uint16_t flags, size_t wire_size, uint32_t checksum, std::byte* header) {
  assert(frame.data.size() <= UINT32_MAX);
  store(header + at_magic, magic);
  store(header + at_version, frame.version);
  store(header + at_kind, static_cast<uint8_t>(frame.kind));
  store(header + at_flags, flags);
  store(header + at_call_id, frame.call_id);
  store(header + at_wire_bytes, static_cast<uint32_t>(wire_size));
  store(header + at_data_bytes, static_cast<uint32_t>(frame.data.size()));
  store(header + at_data_checksum, checksum);
  store(header + at_header_checksum, crc32c({header, at_header_checksum}));
}

}  // namespace

bool encode_frame(const Frame& frame, bool try_compress, std::vector<std::byte>& out) {
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
  store_header(frame, compressed ? flag_zstd : uint16_t{0}, wire_size, crc32c({header + frame_header_bytes, wire_size}),
               header);
  return compressed;
}

void encode_frame_header(const Frame& frame, bool checksum, std::vector<std::byte>& out) {
  const size_t start = out.size();
  out.resize(start + frame_header_bytes);
  store_header(frame, checksum ? uint16_t{0} : flag_unchecked, frame.data.size(), checksum ? crc32c(frame.data) : 0,
               out.data() + start);
}

struct FrameDecoder::Header {
  FrameKind kind;
  uint8_t version;
  bool compressed, checked;
  uint64_t call_id;
  size_t wire_size, data_size;
  uint32_t checksum;
};

void FrameDecoder::push(std::span<const std::byte> bytes) {
  if (!failure_.ok()) return;
  assert(input_.empty());
  input_ = bytes;
}

Result<bool> FrameDecoder::next(Frame& frame) {
  if (!failure_.ok()) return failure_;
  Result<bool> result = take(frame);
  if (!result.ok()) failure_ = result.status();
  if (!result.ok() || !*result) decompressed_ = {};  // an idle connection holds no buffer
  return result;
}

Result<bool> FrameDecoder::take(Frame& frame) {
  if (std::exchange(unfinished_taken_, false)) unfinished_ = {};
  if (chunk_left_ > 0) return take_part(frame);
  if (unfinished_.empty()) {
    if (input_.empty()) return false;
    if (input_.size() >= frame_header_bytes) {
      SPORKLE_ASSIGN_OR_RETURN(const Header header, read_header(input_));
      const size_t size = frame_header_bytes + header.wire_size;
      if (input_.size() >= size) {
        SPORKLE_RETURN_IF_ERROR(decode(header, input_.subspan(frame_header_bytes, header.wire_size), frame));
        input_ = input_.subspan(size);
        return true;
      }
      if (!header.checked) {
        chunk_left_ = header.wire_size;
        chunk_call_id_ = header.call_id;
        input_ = input_.subspan(frame_header_bytes);
        return take_part(frame);
      }
    }
    unfinished_.assign(input_.begin(), input_.end());
    input_ = {};
    return false;
  }
  // Takes of the input what the unfinished frame lacks: first of its header, then of its data.
  const auto fill_to = [this](size_t size) {
    const size_t count = unfinished_.size() < size ? std::min(size - unfinished_.size(), input_.size()) : 0;
    unfinished_.insert(unfinished_.end(), input_.begin(), input_.begin() + static_cast<std::ptrdiff_t>(count));
    input_ = input_.subspan(count);
    return unfinished_.size() >= size;
  };
  if (!fill_to(frame_header_bytes)) return false;
  SPORKLE_ASSIGN_OR_RETURN(const Header header, read_header(unfinished_));
  if (!header.checked && header.wire_size > 0) {
    chunk_left_ = header.wire_size;
    chunk_call_id_ = header.call_id;
    unfinished_ = {};
    return take_part(frame);
  }
  if (!fill_to(frame_header_bytes + header.wire_size)) return false;
  SPORKLE_RETURN_IF_ERROR(decode(header, std::span(unfinished_).subspan(frame_header_bytes, header.wire_size), frame));
  unfinished_taken_ = true;
  return true;
}

bool FrameDecoder::take_part(Frame& frame) {
  if (input_.empty()) return false;
  const size_t size = std::min(chunk_left_, input_.size());
  chunk_left_ -= size;
  frame = {FrameKind::chunk, protocol_major, chunk_call_id_, input_.first(size), chunk_left_ > 0};
  input_ = input_.subspan(size);
  return true;
}

Result<FrameDecoder::Header> FrameDecoder::read_header(std::span<const std::byte> bytes) const {
  const std::byte* header = bytes.data();
  if (load<uint32_t>(header + at_magic) != magic) return corrupt_data("no frame of the sporkle protocol: wrong magic");
  if (load<uint32_t>(header + at_header_checksum) != crc32c({header, at_header_checksum}))
    return corrupt_data("frame header fails its checksum");
  Header h{};
  h.version = load<uint8_t>(header + at_version);
  const auto kind_number = load<uint8_t>(header + at_kind);
  const auto flags = load<uint16_t>(header + at_flags);
  h.wire_size = load<uint32_t>(header + at_wire_bytes);
  h.data_size = load<uint32_t>(header + at_data_bytes);
  h.kind = static_cast<FrameKind>(kind_number);
  h.call_id = load<uint64_t>(header + at_call_id);
  h.checksum = load<uint32_t>(header + at_data_checksum);
  // Hello and goodbye keep their form in every version, so that peers of different versions can say so.
  if (h.version != protocol_major && h.kind != FrameKind::hello && h.kind != FrameKind::goodbye)
    return unsupported("frame of protocol version " + std::to_string(h.version) + "; this program speaks version " +
                       std::to_string(protocol_major));
  if (kind_number < static_cast<uint8_t>(FrameKind::hello) || kind_number > static_cast<uint8_t>(FrameKind::end))
    return corrupt_data("frame of unknown kind " + std::to_string(kind_number));
  h.compressed = flags & flag_zstd;
  h.checked = !(flags & flag_unchecked);
  if ((flags & ~(flag_zstd | flag_unchecked)) ||
      (!h.checked && (h.kind != FrameKind::chunk || h.compressed || h.checksum)))
    return corrupt_data("frame with unknown flags " + std::to_string(flags));
  const size_t limit = data_limit(h.kind, limits_);
  if (h.data_size > limit)
    return corrupt_data("frame with " + std::to_string(h.data_size) + " bytes of data; at most " +
                        std::to_string(limit) + " are allowed in one of its kind");
  if (h.compressed ? h.wire_size >= h.data_size : h.wire_size != h.data_size)
    return corrupt_data("frame whose lengths, " + std::to_string(h.wire_size) + " on the wire and " +
                        std::to_string(h.data_size) + " of data, contradict each other");
  return h;
}

Status FrameDecoder::decode(const Header& header, std::span<const std::byte> wire, Frame& frame) {
  if (header.checked && header.checksum != crc32c(wire)) return corrupt_data("frame data fails its checksum");
  frame.kind = header.kind;
  frame.version = header.version;
  frame.call_id = header.call_id;
  frame.data = wire;
  frame.more = false;
  if (!header.compressed) return {};
  if (!decompression_context()) return Status(Code::out_of_memory, "no memory to decompress a frame");
  decompressed_.resize(header.data_size);
  // Writes at most data_size bytes, which is bounded above: a "zip bomb" is an error, not an allocation.
  const size_t result =
      ZSTD_decompressDCtx(decompression_context(), decompressed_.data(), header.data_size, wire.data(), wire.size());
  if (ZSTD_isError(result))
    return corrupt_data(std::string("frame data cannot be decompressed: ") + ZSTD_getErrorName(result));
  if (result != header.data_size)
    return corrupt_data("frame data decompresses to " + std::to_string(result) + " bytes instead of " +
                        std::to_string(header.data_size));
  frame.data = decompressed_;
  return {};
}

}  // namespace sporkle::mesh
