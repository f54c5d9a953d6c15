// Frames: the units that travel on a connection. docs/protocol.md has the layout.
//
// A frame is a 32-byte header and up to FrameLimits of data. Both have a checksum, unless the sender leaves out that of
// the data because TLS has one already. The header's is verified before its lengths are believed, and the
// lengths are bounded before anything is allocated. Pure computation on bytes; a decoder belongs to one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"

namespace sporkle::mesh {

inline constexpr uint8_t protocol_major = 1;
inline constexpr uint8_t protocol_minor = 1;
inline constexpr uint32_t first_minor_with_streams = 1;  // and windows, deadlines, chunks without checksum

inline constexpr size_t frame_header_bytes = 32;
// Payloads are cut into chunks, so that a small call waits for one of these at most.
inline constexpr size_t max_chunk_bytes = size_t{256} << 10;
// What we send: with the header a whole number of TLS records, so that none is sent nearly empty.
inline constexpr size_t sent_chunk_bytes = max_chunk_bytes - frame_header_bytes;
inline constexpr size_t max_control_bytes = size_t{16} << 10;

enum class FrameKind : uint8_t {
  hello = 1,     // first each way: who speaks, and which protocol version
  request = 2,   // opens a call: method, body, size of the payload
  response = 3,  // answers it: status, body, size of the payload
  chunk = 4,     // the next bytes of the payload of the call's request or response
  cancel = 5,    // the caller no longer wants the answer
  ping = 6,
  pong = 7,
  goodbye = 8,  // last: why the connection ends
  window = 9,   // since 1.1: so many more bytes of the stream may be sent
  end = 10,     // since 1.1: the caller sends nothing more on the stream
};

struct Frame {
  FrameKind kind{};
  uint8_t version = protocol_major;  // of the sender
  uint64_t call_id = 0;              // 0 for hello, ping, pong and goodbye
  std::span<const std::byte> data;   // decompressed
  bool more = false;                 // of a chunk that comes in parts (FrameDecoder): not the last of them
};

struct FrameLimits {
  size_t max_envelope_bytes = (size_t{1} << 20) + max_control_bytes;  // of a request's or response's data
};

// Appends the frame to `out`. With `try_compress`, data that zstd shrinks travels compressed. Returns whether it did.
// Data beyond the limits is a bug of the caller's.
bool encode_frame(const Frame& frame, bool try_compress, std::vector<std::byte>& out);

// The same in two parts, for data that are not to be copied: appends the header alone; the caller sends frame.data
// after it. Without `checksum` the receiver does not check the data (chunks only; since 1.1).
void encode_frame_header(const Frame& frame, bool checksum, std::vector<std::byte>& out);

class FrameDecoder {
 public:
  explicit FrameDecoder(const FrameLimits& limits = {}) : limits_(limits) {}

  // Gives bytes as they arrived. They must stay valid until next() has returned false or an error, and only then may
  // more be pushed. Whole frames are read where they lie; only an unfinished one is copied, and that is all that is
  // held. A chunk without checksum, which nobody need wait for the end of, is given out in parts as it arrives.
  void push(std::span<const std::byte> bytes);
  // Takes the next whole frame: true and `frame`, whose data is valid until the next call of push() or next(); or false
  // when more bytes are needed. corrupt_data when the bytes are no frame of ours, unsupported when a frame of another
  // protocol version follows the hello; then the stream has lost its place, and every later call fails alike.
  Result<bool> next(Frame& frame);
  // Whether the bytes so far end inside a frame.
  bool inside_frame() const { return !unfinished_.empty() || !input_.empty() || chunk_left_ > 0; }

 private:
  struct Header;
  // Reads the header at the start of `bytes`, which has as many as one.
  Result<Header> read_header(std::span<const std::byte> bytes) const;
  // `frame` of a header and its data as on the wire.
  Status decode(const Header& header, std::span<const std::byte> wire, Frame& frame);
  Result<bool> take(Frame& frame);
  // What has arrived of a chunk that comes in parts.
  bool take_part(Frame& frame);

  FrameLimits limits_;
  std::span<const std::byte> input_;   // pushed and not yet taken
  std::vector<std::byte> unfinished_;  // the start of a frame that the input so far did not hold whole
  bool unfinished_taken_ = false;      // it has become whole and been given out
  size_t chunk_left_ = 0;              // of the chunk that comes in parts: bytes not given out yet
  uint64_t chunk_call_id_ = 0;
  std::vector<std::byte> decompressed_;
  Status failure_;
};

}  // namespace sporkle::mesh
