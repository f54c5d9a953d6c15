#include "mesh/frame.h"

#include <gtest/gtest.h>
#include <zstd.h>

#include <random>
#include <string_view>
#include <vector>

#include "mesh/crc32c.h"

namespace sporkle::mesh {
namespace {

using Bytes = std::vector<std::byte>;

Bytes random_bytes(size_t size) {
  std::mt19937 random(7);
  Bytes bytes(size);
  for (std::byte& b : bytes) b = static_cast<std::byte>(random());
  return bytes;
}

Bytes encode(FrameKind kind, std::span<const std::byte> data, bool compress = false, uint8_t version = protocol_major) {
  Bytes out;
  encode_frame({kind, version, 42, data}, compress, out);
  return out;
}

void store32(Bytes& bytes, size_t at, uint32_t value) {
  for (size_t i = 0; i < 4; ++i) bytes[at + i] = static_cast<std::byte>(value >> (8 * i));
}

// A frame with these header fields and valid checksums, whatever sense they make.
Bytes forge(FrameKind kind, uint16_t flags, uint32_t data_bytes, const Bytes& wire) {
  Bytes frame = encode(kind, {});
  frame[6] = static_cast<std::byte>(flags);
  frame[7] = static_cast<std::byte>(flags >> 8);
  store32(frame, 16, static_cast<uint32_t>(wire.size()));
  store32(frame, 20, data_bytes);
  store32(frame, 24, crc32c(wire));
  store32(frame, 28, crc32c(std::span(frame).first(28)));
  frame.insert(frame.end(), wire.begin(), wire.end());
  return frame;
}

Result<bool> decode(const Bytes& bytes, Frame& frame, FrameDecoder& decoder) {
  decoder.push(bytes);
  return decoder.next(frame);
}

Code decode_code(const Bytes& bytes) {
  FrameDecoder decoder;
  Frame frame;
  return decode(bytes, frame, decoder).status().code();
}

TEST(Crc32c, KnownAnswers) {
  EXPECT_EQ(crc32c(std::as_bytes(std::span(std::string_view("123456789")))), 0xE3069283u);
  EXPECT_EQ(crc32c({}), 0u);
  EXPECT_EQ(crc32c(Bytes(32)), 0x8A9136AAu);  // RFC 3720, B.4
}

TEST(Frame, RoundTripsEveryKindWithAndWithoutCompression) {
  for (int kind = 1; kind <= 10; ++kind) {
    for (const Bytes& data : {Bytes(), Bytes(1), random_bytes(1000), Bytes(10'000, std::byte{3})}) {
      for (const bool compress : {false, true}) {
        const Bytes bytes = encode(static_cast<FrameKind>(kind), data, compress);
        FrameDecoder decoder;
        Frame frame;
        const auto result = decode(bytes, frame, decoder);
        ASSERT_TRUE(result.ok()) << result.status().to_string();
        ASSERT_TRUE(*result);
        EXPECT_EQ(static_cast<int>(frame.kind), kind);
        EXPECT_EQ(frame.call_id, 42u);
        EXPECT_EQ(Bytes(frame.data.begin(), frame.data.end()), data);
        EXPECT_FALSE(decoder.inside_frame());
        EXPECT_FALSE(*decoder.next(frame));
      }
    }
  }
}

TEST(Frame, CompressesOnlyWhatShrinks) {
  Bytes out;
  EXPECT_TRUE(encode_frame({FrameKind::chunk, protocol_major, 1, Bytes(100'000)}, true, out));
  EXPECT_LT(out.size(), 1000u);
  out.clear();
  const Bytes noise = random_bytes(100'000);
  EXPECT_FALSE(encode_frame({FrameKind::chunk, protocol_major, 1, noise}, true, out));
  EXPECT_EQ(out.size(), noise.size() + frame_header_bytes);
}

TEST(Frame, AStreamMayArriveByteByByte) {
  Bytes stream;
  for (int i = 0; i < 3; ++i) encode_frame({FrameKind::chunk, protocol_major, 7, random_bytes(50)}, false, stream);
  FrameDecoder decoder;
  int frames = 0;
  for (const std::byte b : stream) {
    decoder.push({&b, 1});
    Frame frame;
    const auto result = decoder.next(frame);
    ASSERT_TRUE(result.ok());
    frames += *result;
  }
  EXPECT_EQ(frames, 3);
}

TEST(Frame, TruncatedAtEveryByteNeedsMore) {
  const Bytes bytes = encode(FrameKind::request, random_bytes(40));
  for (size_t size = 0; size < bytes.size(); ++size) {
    FrameDecoder decoder;
    Frame frame;
    const auto result = decode(Bytes(bytes.begin(), bytes.begin() + static_cast<long>(size)), frame, decoder);
    ASSERT_TRUE(result.ok()) << size;
    EXPECT_FALSE(*result) << size;
    EXPECT_EQ(decoder.inside_frame(), size > 0);
  }
}

TEST(Frame, EveryFlippedBitIsAnError) {
  for (const bool compress : {false, true}) {
    const Bytes good = encode(FrameKind::chunk, compress ? Bytes(60) : random_bytes(60), compress);
    for (size_t bit = 0; bit < good.size() * 8; ++bit) {
      Bytes bad = good;
      bad[bit / 8] ^= std::byte{1} << (bit % 8);
      FrameDecoder decoder;
      Frame frame;
      EXPECT_EQ(decode(bad, frame, decoder).status().code(), Code::corrupt_data) << "bit " << bit;
      decoder.push(good);
      EXPECT_FALSE(decoder.next(frame).ok()) << "a failed decoder must stay failed";
    }
  }
}

TEST(Frame, OversizeLengthsFailBeforeAnythingIsAllocated) {
  for (const uint32_t size : {uint32_t{max_chunk_bytes + 1}, uint32_t{1} << 31, ~0u}) {
    Bytes header = forge(FrameKind::chunk, 0, size, {});
    store32(header, 16, size);
    store32(header, 28, crc32c(std::span(header).first(28)));
    EXPECT_EQ(decode_code(header), Code::corrupt_data) << size;
  }
  EXPECT_EQ(decode_code(forge(FrameKind::ping, 0, 20'000, Bytes(20'000))), Code::corrupt_data);
  FrameDecoder small(FrameLimits{100});
  Frame frame;
  EXPECT_EQ(decode(encode(FrameKind::request, Bytes(101)), frame, small).status().code(), Code::corrupt_data);
}

TEST(Frame, ZstdBombsAreErrors) {
  Bytes zeros(10 << 20);
  Bytes bomb(ZSTD_compressBound(zeros.size()));
  bomb.resize(ZSTD_compress(bomb.data(), bomb.size(), zeros.data(), zeros.size(), 3));
  EXPECT_EQ(decode_code(forge(FrameKind::chunk, 1, static_cast<uint32_t>(zeros.size()), bomb)), Code::corrupt_data);
  EXPECT_EQ(decode_code(forge(FrameKind::chunk, 1, max_chunk_bytes, bomb)), Code::corrupt_data);
  Bytes small(1000);
  Bytes packed(ZSTD_compressBound(small.size()));
  packed.resize(ZSTD_compress(packed.data(), packed.size(), small.data(), small.size(), 3));
  EXPECT_EQ(decode_code(forge(FrameKind::chunk, 1, 1000, packed)), Code::ok);
  EXPECT_EQ(decode_code(forge(FrameKind::chunk, 1, 1001, packed)), Code::corrupt_data) << "decompresses to less";
  EXPECT_EQ(decode_code(forge(FrameKind::chunk, 1, 999, packed)), Code::corrupt_data) << "decompresses to more";
  EXPECT_EQ(decode_code(forge(FrameKind::chunk, 1, 1000, random_bytes(500))), Code::corrupt_data) << "no zstd at all";
  EXPECT_EQ(decode_code(forge(FrameKind::chunk, 1, 10, random_bytes(10))), Code::corrupt_data) << "does not shrink";
}

TEST(Frame, ContradictingHeadersAreErrors) {
  EXPECT_EQ(decode_code(forge(FrameKind::chunk, 0, 5, Bytes(6))), Code::corrupt_data);
  EXPECT_EQ(decode_code(forge(FrameKind::chunk, 4, 6, Bytes(6))), Code::corrupt_data) << "unknown flag";
  EXPECT_EQ(decode_code(forge(static_cast<FrameKind>(0), 0, 0, {})), Code::corrupt_data);
  EXPECT_EQ(decode_code(forge(static_cast<FrameKind>(11), 0, 0, {})), Code::corrupt_data);
}

TEST(Frame, ChunksMayGoWithoutTheirChecksum) {
  const Bytes data = random_bytes(1000);
  Bytes bytes;
  encode_frame_header({FrameKind::chunk, protocol_major, 42, data}, false, bytes);
  EXPECT_EQ(bytes.size(), frame_header_bytes);
  bytes.insert(bytes.end(), data.begin(), data.end());
  FrameDecoder decoder;
  Frame frame;
  ASSERT_TRUE(*decode(bytes, frame, decoder));
  EXPECT_EQ(Bytes(frame.data.begin(), frame.data.end()), data);
  bytes.clear();
  encode_frame_header({FrameKind::chunk, protocol_major, 42, data}, true, bytes);
  bytes.insert(bytes.end(), data.begin(), data.end());
  EXPECT_EQ(bytes, encode(FrameKind::chunk, data)) << "with it, both ways of encoding are one";
  // Only chunks, only uncompressed, and then the field is 0.
  bytes.clear();
  encode_frame_header({FrameKind::request, protocol_major, 42, {}}, false, bytes);
  EXPECT_EQ(decode_code(bytes), Code::corrupt_data);
  EXPECT_EQ(decode_code(forge(FrameKind::chunk, 2, 6, Bytes(6, std::byte{1}))), Code::corrupt_data);
  EXPECT_EQ(decode_code(forge(FrameKind::chunk, 3, 6, Bytes(5))), Code::corrupt_data);
}

TEST(Frame, AChunkWithoutChecksumComesInParts) {
  const Bytes data = random_bytes(1000);
  Bytes bytes;
  encode_frame_header({FrameKind::chunk, protocol_major, 42, data}, false, bytes);
  bytes.insert(bytes.end(), data.begin(), data.end());
  const Bytes next = encode(FrameKind::request, random_bytes(5));
  bytes.insert(bytes.end(), next.begin(), next.end());
  for (const size_t step : {1, 7, 31, 33, 500, 1032}) {
    FrameDecoder decoder;
    Bytes got;
    bool more = true;
    size_t requests = 0;
    for (size_t at = 0; at < bytes.size(); at += step) {
      decoder.push(std::span(bytes).subspan(at, std::min(step, bytes.size() - at)));
      for (;;) {
        Frame frame;
        const auto whole = decoder.next(frame);
        ASSERT_TRUE(whole.ok()) << whole.status().to_string();
        if (!*whole) break;
        if (frame.kind == FrameKind::request) {
          ++requests;
          continue;
        }
        EXPECT_EQ(frame.kind, FrameKind::chunk);
        EXPECT_EQ(frame.call_id, 42u);
        EXPECT_TRUE(more) << "a part behind the last";
        got.insert(got.end(), frame.data.begin(), frame.data.end());
        more = frame.more;
        EXPECT_EQ(more, got.size() < data.size());
        EXPECT_TRUE(!more || decoder.inside_frame());
      }
    }
    EXPECT_EQ(got, data) << step;
    EXPECT_EQ(requests, 1u) << step;
    EXPECT_FALSE(decoder.inside_frame());
  }
}

TEST(Frame, OfAnotherVersionOnlyHelloAndGoodbyeAreRead) {
  EXPECT_EQ(decode_code(encode(FrameKind::hello, {}, false, 2)), Code::ok);
  EXPECT_EQ(decode_code(encode(FrameKind::goodbye, {}, false, 2)), Code::ok);
  EXPECT_EQ(decode_code(encode(FrameKind::request, {}, false, 2)), Code::unsupported);
}

}  // namespace
}  // namespace sporkle::mesh
