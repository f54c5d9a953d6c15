#include "mesh/reduction_message.h"

#include <gtest/gtest.h>

#include <string>

namespace sporkle::mesh {
namespace {

using Header = std::array<std::byte, reduction_header_bytes>;

ReductionMessage example() {
  ReductionMessage message;
  message.kind = ReductionKind::promise;
  message.done = true;
  message.operation = 3;
  message.view = 130;
  message.members = 0x800000000000000B;
  message.accepted = 64;
  return message;
}

std::string hex(const Header& header) {
  static constexpr char digits[] = "0123456789abcdef";
  std::string text;
  for (const std::byte byte : header) {
    text += digits[std::to_integer<unsigned>(byte) >> 4];
    text += digits[std::to_integer<unsigned>(byte) & 15];
  }
  return text;
}

// The vectors of docs/protocol.md, made with another implementation.
TEST(ReductionMessage, HasTheBytesOfTheProtocol) {
  Header header;
  encode_reduction(example(), header);
  EXPECT_EQ(hex(header),
            "53504b5201080100030000000000000082000000000000000b000000"
            "000000804000000000000000000000000000000000000000c5f6c529");
  ReductionMessage chunk;
  chunk.kind = ReductionKind::contribution;
  chunk.operation = 1;
  chunk.members = 0xf;
  chunk.chunk = 255;
  chunk.payload_bytes = 262144;
  encode_reduction(chunk, header);
  EXPECT_EQ(hex(header),
            "53504b5201020000010000000000000000000000000000000f000000"
            "000000000000000000000000ff0000000000040000000000e0f1386a");
  ReductionMessage hello;
  hello.kind = ReductionKind::hello;
  hello.payload_bytes = 64;
  encode_reduction(hello, header);
  EXPECT_EQ(hex(header),
            "53504b52010100000000000000000000000000000000000000000000"
            "00000000000000000000000000000000400000000000000074cd8d8f");
}

TEST(ReductionMessage, ComesBack) {
  for (int kind = 1; kind <= 10; ++kind) {
    ReductionMessage message = example();
    message.kind = static_cast<ReductionKind>(kind);
    message.chunk = 7;
    message.payload_bytes = kind == 1 ? 64 : kind <= 3 ? max_reduction_chunk_bytes : 0;
    Header header;
    encode_reduction(message, header);
    const auto decoded = decode_reduction(header);
    ASSERT_TRUE(decoded.ok()) << decoded.status().to_string();
    EXPECT_EQ(*decoded, message);
  }
}

TEST(ReductionMessage, EveryAlteredBitIsNoticed) {
  Header header;
  encode_reduction(example(), header);
  for (size_t bit = 0; bit < 8 * header.size(); ++bit) {
    Header altered = header;
    altered[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    EXPECT_FALSE(decode_reduction(altered).ok()) << "bit " << bit;
  }
}

TEST(ReductionMessage, PayloadsHaveTheirBounds) {
  const auto decoded = [](ReductionKind kind, uint32_t payload_bytes) {
    ReductionMessage message;
    message.kind = kind;
    message.payload_bytes = payload_bytes;
    Header header;
    encode_reduction(message, header);
    return decode_reduction(header).status().code();
  };
  EXPECT_EQ(decoded(ReductionKind::contribution, max_reduction_chunk_bytes + 1), Code::corrupt_data);
  EXPECT_EQ(decoded(ReductionKind::result, 0), Code::corrupt_data);
  EXPECT_EQ(decoded(ReductionKind::done, 1), Code::corrupt_data);
  EXPECT_EQ(decoded(ReductionKind::hello, 63), Code::corrupt_data);
  EXPECT_EQ(decoded(static_cast<ReductionKind>(11), 0), Code::corrupt_data);
  EXPECT_EQ(decoded(static_cast<ReductionKind>(0), 0), Code::corrupt_data);
}

}  // namespace
}  // namespace sporkle::mesh
