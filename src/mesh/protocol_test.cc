// The protocol's bytes: the vectors of docs/protocol.md, and a conversation recorded from the program that spoke 1.0.
#include <gtest/gtest.h>

#include <cctype>
#include <fstream>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "mesh/frame.h"
#include "mesh/session.h"

namespace sporkle::mesh {
namespace {

using Bytes = std::vector<std::byte>;
using Kind = Session::Event::Kind;

Bytes from_hex(std::string_view hex) {
  const auto digit = [](char c) { return c <= '9' ? c - '0' : c - 'a' + 10; };
  Bytes bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2)
    bytes.push_back(static_cast<std::byte>(digit(hex[i]) * 16 + digit(hex[i + 1])));
  return bytes;
}

std::string to_hex(const Bytes& bytes) {
  std::string hex;
  for (const std::byte b : bytes) {
    hex += "0123456789abcdef"[std::to_integer<int>(b) >> 4];
    hex += "0123456789abcdef"[std::to_integer<int>(b) & 15];
  }
  return hex;
}

std::string output_of(Session& session) {
  Bytes bytes;
  while (session.next_output(bytes)) {
  }
  return to_hex(bytes);
}

// "| `name` | ... | `hex` |" of the section on test vectors.
std::map<std::string, std::string> vectors_of_the_document() {
  std::ifstream file(SPORKLE_SOURCE_DIR "/docs/protocol.md");
  EXPECT_TRUE(file.good());
  std::map<std::string, std::string> vectors;
  bool inside = false;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("#")) inside = line == "### Test vectors of frames";
    if (!inside || !line.starts_with("| `")) continue;
    const size_t name_end = line.find('`', 3);
    const size_t hex_end = line.rfind('`');
    const size_t hex_begin = line.rfind('`', hex_end - 1) + 1;
    std::string hex;
    for (const char c : line.substr(hex_begin, hex_end - hex_begin))
      if (c != ' ') hex += c;
    vectors[line.substr(3, name_end - 3)] = hex;
  }
  return vectors;
}

// What the document's conversation is made of.
Session::Options client_options() { return {"sporkle 0.1", "worker", {}, false}; }
Session::Options server_options() { return {"sporkle 0.1", "coordinator", {}, false}; }
const Bytes five = from_hex("0102030405");

TEST(Protocol, TheDocumentsVectorsAreWhatIsSent) {
  std::map<std::string, std::string> sent;
  Session client(Session::Side::client, client_options());
  Session server(Session::Side::server, server_options());
  const auto pass = [&](const std::string& name, Session& from, Session& to) {
    sent[name] = output_of(from);
    EXPECT_TRUE(to.receive(from_hex(sent[name])).ok()) << name;
  };
  pass("hello-client", client, server);
  pass("hello-server", server, client);
  client.send_request(1, "echo", {"tick", five}, 30'000);
  pass("request", client, server);
  server.send_response(1, Message{"tock", five});
  pass("response", server, client);
  client.send_request(2, "wait", {});
  pass("request-plain", client, server);
  server.send_response(2, Status(Code::not_found, "no such thing"));
  pass("response-failure", server, client);
  EXPECT_TRUE(client.open_stream(3, "copy", "to", 0).ok());
  pass("stream-open", client, server);
  client.stream_write(3, SharedBytes(five));
  pass("stream-chunk", client, server);
  client.stream_finish(3);
  pass("stream-end", client, server);
  server.send_response(3, Message{"5", {}});
  pass("stream-response", server, client);
  EXPECT_TRUE(client.open_stream(4, "copy", "", 0).ok());
  output_of(client);
  Session reader(Session::Side::server, server_options());
  EXPECT_TRUE(reader.receive(from_hex(sent["hello-client"])).ok());
  output_of(reader);
  Session opener(Session::Side::client, client_options());
  EXPECT_TRUE(opener.receive(from_hex(sent["hello-server"])).ok());
  output_of(opener);
  EXPECT_TRUE(opener.open_stream(4, "copy", "", 0).ok());
  EXPECT_TRUE(reader.receive(from_hex(output_of(opener))).ok());
  reader.stream_consumed(4, 2'097'152);
  pass("window", reader, opener);
  client.cancel(4);
  sent["cancel"] = output_of(client);
  client.send_ping();
  pass("ping", client, server);
  pass("pong", server, client);
  client.send_goodbye(Status());
  sent["goodbye"] = output_of(client);
  server.send_goodbye(Status(Code::permission_denied, "banned"));
  sent["goodbye-reason"] = output_of(server);

  const auto documented = vectors_of_the_document();
  for (const auto& [name, hex] : sent) {
    const auto it = documented.find(name);
    EXPECT_EQ(it == documented.end() ? "missing in the document" : it->second, hex) << name;
  }
  EXPECT_EQ(documented.size(), sent.size());
}

// Recorded from the last program that spoke version 1.0.
namespace recorded {
constexpr const char* client_hello =
    "53504b4c0101000000000000000000001700000017000000426c1aefd99a539908011a0b73706f726b6c6520302e312206776f726b6572";
constexpr const char* server_hello =
    "53504b4c0101000000000000000000001c0000001c000000b5f56c6a4c359f0408011a0b73706f726b6c6520302e31220b636f6f7264696e"
    "61746f72";
constexpr const char* request =
    "53504b4c0102000001000000000000000e0000000e000000b4f85fa72423eb160a046563686f12047469636b180553504b4c010400000100"
    "0000000000000500000005000000ab8f5153083f1c8f0102030405";
constexpr const char* response =
    "53504b4c010300000100000000000000080000000800000048a099658eca63fd1a04746f636b200553504b4c010400000100000000000000"
    "0500000005000000ab8f5153083f1c8f0102030405";
constexpr const char* second_request = "53504b4c0102000002000000000000000600000006000000156c4abb02311d810a0477616974";
constexpr const char* cancel = "53504b4c0105000002000000000000000000000000000000000000001c30fc78";
constexpr const char* ping = "53504b4c0106000000000000000000000000000000000000000000002ecf0f88";
constexpr const char* pong = "53504b4c010700000000000000000000000000000000000000000000163fdcfd";
constexpr const char* goodbye = "53504b4c0108000000000000000000000000000000000000000000009c83a011";
}  // namespace recorded

TEST(Protocol, AClientOfVersion10IsServedInItsOwnBytes) {
  Session server(Session::Side::server, server_options());
  output_of(server);  // our hello, whose new field an old reader skips
  ASSERT_TRUE(server.receive(from_hex(recorded::client_hello)).ok());
  Session::Event event;
  ASSERT_TRUE(server.next_event(event));
  EXPECT_EQ(event.minor_version, 0u);
  EXPECT_EQ(event.software, "sporkle 0.1");
  ASSERT_TRUE(server.receive(from_hex(recorded::request)).ok());
  ASSERT_TRUE(server.next_event(event));
  EXPECT_EQ(event.method, "echo");
  EXPECT_EQ(event.message.body, "tick");
  EXPECT_EQ(event.message.payload, five);
  EXPECT_EQ(event.timeout_ms, 0u);
  server.send_response(1, Message{"tock", five});
  EXPECT_EQ(output_of(server), recorded::response);
  ASSERT_TRUE(server.receive(from_hex(recorded::second_request)).ok());
  ASSERT_TRUE(server.next_event(event));
  ASSERT_TRUE(server.receive(from_hex(recorded::cancel)).ok());
  EXPECT_TRUE(event.cancellation->requested());
  ASSERT_TRUE(server.receive(from_hex(recorded::ping)).ok());
  EXPECT_EQ(output_of(server), recorded::pong);
  EXPECT_EQ(server.receive(from_hex(recorded::goodbye)).code(), Code::unavailable);
  EXPECT_TRUE(server.peer_said_goodbye());
}

TEST(Protocol, AServerOfVersion10GetsNothingNew) {
  Session client(Session::Side::client, client_options());
  output_of(client);
  ASSERT_TRUE(client.receive(from_hex(recorded::server_hello)).ok());
  Session::Event event;
  ASSERT_TRUE(client.next_event(event));
  EXPECT_EQ(event.minor_version, 0u);
  client.send_request(1, "echo", {"tick", five});
  EXPECT_EQ(output_of(client), recorded::request);
  ASSERT_TRUE(client.receive(from_hex(recorded::response)).ok());
  ASSERT_TRUE(client.next_event(event));
  EXPECT_EQ(event.result->body, "tock");
  EXPECT_EQ(event.result->payload, five);
  EXPECT_EQ(client.open_stream(2, "m", "").code(), Code::unsupported);
  EXPECT_FALSE(client.has_output());
  // Its decoder knows one flag and eight kinds of frames.
  uint32_t state = 1;
  Bytes noise(1'000'000);
  for (std::byte& b : noise) b = static_cast<std::byte>((state = state * 1664525 + 1013904223) >> 24);
  client.send_request(2, "m", {"", noise});
  Bytes wire = from_hex(output_of(client));
  size_t frames = 0;
  for (size_t at = 0; at < wire.size(); ++frames) {
    ASSERT_LE(std::to_integer<int>(wire[at + 5]), 8);
    ASSERT_LE(std::to_integer<int>(wire[at + 6]), 1);
    size_t size = 0;
    for (size_t i = 0; i < 4; ++i) size |= std::to_integer<size_t>(wire[at + 16 + i]) << (8 * i);
    at += frame_header_bytes + size;
  }
  EXPECT_GE(frames, 4u);
}

}  // namespace
}  // namespace sporkle::mesh
