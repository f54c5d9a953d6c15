#include "mesh/session.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "mesh/mesh.pb.h"

namespace sporkle::mesh {
namespace {

using Bytes = std::vector<std::byte>;
using Kind = Session::Event::Kind;

Bytes noise(size_t size) {
  Bytes bytes(size);
  uint32_t state = 1;
  for (std::byte& b : bytes) b = static_cast<std::byte>((state = state * 1664525 + 1013904223) >> 24);
  return bytes;
}

Bytes frame(FrameKind kind, uint64_t call_id, const std::string& data, uint8_t version = protocol_major) {
  Bytes out;
  encode_frame({kind, version, call_id, std::as_bytes(std::span(data))}, false, out);
  return out;
}

std::string hello(uint32_t major = protocol_major) {
  wire::Hello hello;
  hello.set_protocol_major(major);
  hello.set_protocol_minor(7);
  hello.set_software("other 9.9");
  hello.set_role("tester");
  return hello.SerializeAsString();
}

std::string request(uint64_t payload_bytes, const std::string& method = "m") {
  wire::Request request;
  request.set_method(method);
  request.set_payload_bytes(payload_bytes);
  return request.SerializeAsString();
}

std::string response(uint64_t payload_bytes) {
  wire::Response response;
  response.set_payload_bytes(payload_bytes);
  return response.SerializeAsString();
}

// A client's and a server's session, joined by nothing but this test.
struct Pair {
  Session client{Session::Side::client, {"client 1", "worker", {}}};
  Session server;

  explicit Pair(const Limits& server_limits = {}) : server(Session::Side::server, {"server 1", "boss", server_limits}) {
    pump();
    Session::Event event;
    EXPECT_TRUE(server.next_event(event));
    EXPECT_EQ(event.kind, Kind::opened);
    EXPECT_EQ(event.software, "client 1");
    EXPECT_EQ(event.role, "worker");
    EXPECT_TRUE(client.next_event(event));
  }

  static Status transfer(Session& from, Session& to) {
    Bytes bytes;
    while (from.next_output(bytes)) {
    }
    return to.receive(bytes);
  }
  void pump() {
    while (client.has_output() || server.has_output()) {
      ASSERT_TRUE(transfer(client, server).ok());
      ASSERT_TRUE(transfer(server, client).ok());
    }
  }
  Session::Event server_event() {
    Session::Event event;
    EXPECT_TRUE(server.next_event(event));
    return event;
  }
  Session::Event client_event() {
    Session::Event event;
    EXPECT_TRUE(client.next_event(event));
    return event;
  }
  // What the server makes of these bytes from its client.
  Status feed_server(const Bytes& bytes) { return server.receive(bytes); }
};

TEST(Session, CarriesCallsOfEverySize) {
  Pair pair;
  uint64_t id = 0;
  for (const size_t size : {size_t{0}, size_t{1}, max_chunk_bytes, max_chunk_bytes + 1, size_t{3'000'000}}) {
    for (const Bytes& payload : {Bytes(size, std::byte{5}), noise(size)}) {
      pair.client.send_request(++id, "echo", {"body", payload});
      pair.pump();
      Session::Event event = pair.server_event();
      ASSERT_EQ(event.kind, Kind::request);
      EXPECT_EQ(event.call_id, id);
      EXPECT_EQ(event.method, "echo");
      EXPECT_EQ(event.message.body, "body");
      EXPECT_TRUE(event.message.payload == payload);
      EXPECT_FALSE(event.cancellation->requested());
      pair.server.send_response(id, Message{"answer", std::move(event.message.payload)});
      pair.pump();
      event = pair.client_event();
      ASSERT_EQ(event.kind, Kind::response);
      EXPECT_EQ(event.call_id, id);
      ASSERT_TRUE(event.result.ok());
      EXPECT_EQ(event.result->body, "answer");
      EXPECT_TRUE(event.result->payload == payload);
    }
  }
}

TEST(Session, CompressesPayloadsThatShrink) {
  Pair pair;
  pair.client.send_request(1, "m", {"", Bytes(1 << 20)});
  Bytes wire;
  while (pair.client.next_output(wire)) {
  }
  EXPECT_LT(wire.size(), 2000u);
}

TEST(Session, SmallCallsOvertakeLargePayloads) {
  Pair pair;
  pair.client.send_request(1, "large", {"", noise(10 * max_chunk_bytes)});
  pair.client.send_request(2, "large", {"", noise(10 * max_chunk_bytes)});
  Bytes bytes;
  for (int i = 0; i < 6; ++i) pair.client.next_output(bytes);
  pair.client.send_request(3, "small", {"tick", {}});
  bytes.clear();
  ASSERT_TRUE(pair.client.next_output(bytes));
  FrameDecoder decoder;
  Frame next;
  decoder.push(bytes);
  ASSERT_TRUE(*decoder.next(next));
  EXPECT_EQ(next.call_id, 3u) << "the next frame must be the small call's";
  // And the large ones take turns.
  std::vector<uint64_t> order;
  for (int i = 0; i < 4; ++i) {
    bytes.clear();
    ASSERT_TRUE(pair.client.next_output(bytes));
    decoder.push(bytes);
    ASSERT_TRUE(*decoder.next(next));
    order.push_back(next.call_id);
  }
  EXPECT_NE(order[0], order[1]);
  EXPECT_EQ(order[0], order[2]);
  EXPECT_EQ(order[1], order[3]);
}

TEST(Session, FailuresTravelWithCodeAndDefusedMessage) {
  Pair pair;
  for (int code = 1; code <= static_cast<int>(Code::internal); ++code) {
    const auto id = static_cast<uint64_t>(code);
    pair.client.send_request(id, "m", {});
    pair.pump();
    pair.server_event();
    pair.server.send_response(id, Status(static_cast<Code>(code), "bad \x1b[2J" + std::string(10'000, 'x')));
    pair.pump();
    const Session::Event event = pair.client_event();
    const auto sent = static_cast<Code>(code);
    EXPECT_EQ(event.result.status().code(), sent == Code::device_lost ? Code::unavailable : sent);
    EXPECT_EQ(event.result.status().message().size(), max_status_message_bytes);
    EXPECT_TRUE(event.result.status().message().starts_with("bad ?[2Jx"));
  }
}

TEST(Session, CancelAbandonsTheCallAndDropsItsAnswer) {
  Pair pair;
  pair.client.send_request(1, "slow", {});
  pair.pump();
  const Session::Event call = pair.server_event();
  pair.client.cancel(1);
  pair.pump();
  EXPECT_TRUE(call.cancellation->requested());
  pair.server.send_response(1, Message{"late", {}});
  EXPECT_FALSE(pair.server.has_output());
  // One cancelled before anything of it was sent leaves no trace.
  pair.client.send_request(2, "never", {});
  pair.client.cancel(2);
  EXPECT_FALSE(pair.client.has_output());
  // One cancelled in the middle of its payload stops there.
  pair.client.send_request(3, "big", {"", noise(2 << 20)});
  Bytes bytes;
  for (int i = 0; i < 3; ++i) pair.client.next_output(bytes);
  ASSERT_TRUE(pair.server.receive(bytes).ok());
  pair.client.cancel(3);
  pair.pump();
  Session::Event none;
  EXPECT_FALSE(pair.server.next_event(none));
  // A response that was on its way when the cancel left is ignored.
  pair.client.send_request(4, "m", {});
  pair.pump();
  pair.server.send_response(4, Message{"", noise(1000)});
  pair.client.cancel(4);
  pair.pump();
  EXPECT_FALSE(pair.client.next_event(none));
}

TEST(Session, PingIsAnsweredAndManyPingsOnce) {
  Pair pair;
  pair.client.send_ping();
  Bytes bytes;
  while (pair.client.next_output(bytes)) {
  }
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(pair.server.receive(bytes).ok());
  Bytes answer;
  while (pair.server.next_output(answer)) {
  }
  EXPECT_EQ(answer.size(), frame_header_bytes);
  EXPECT_TRUE(pair.client.receive(answer).ok());
}

TEST(Session, GoodbyeTellsThePeerWhy) {
  Pair pair;
  pair.server.send_goodbye(Status(Code::permission_denied, "banned"));
  pair.server.send_ping();
  const Status status = Pair::transfer(pair.server, pair.client);
  EXPECT_EQ(status.code(), Code::permission_denied);
  EXPECT_EQ(status.message(), "the peer closed the connection: banned");
  EXPECT_TRUE(pair.client.peer_said_goodbye());
}

TEST(Session, AnotherMajorVersionIsNamedAndRefused) {
  Session server(Session::Side::server, {"server 1", "boss", {}});
  const Status status = server.receive(frame(FrameKind::hello, 0, hello(2), 2));
  EXPECT_EQ(status.code(), Code::unsupported);
  EXPECT_NE(status.message().find("2.7"), std::string::npos) << status.message();
  EXPECT_NE(status.message().find("1.1"), std::string::npos) << status.message();
  EXPECT_NE(status.message().find("other 9.9"), std::string::npos) << status.message();
  EXPECT_FALSE(server.opened());
}

TEST(Session, AnotherMinorVersionIsWelcome) {
  Session server(Session::Side::server, {"server 1", "boss", {}});
  EXPECT_TRUE(server.receive(frame(FrameKind::hello, 0, hello())).ok());
  EXPECT_TRUE(server.opened());
}

TEST(Session, ViolationsOfTheProtocolEndIt) {
  const auto expect_corrupt = [](const std::vector<Bytes>& frames, const std::string& what) {
    Pair pair;
    Status status;
    for (const Bytes& bytes : frames) {
      ASSERT_TRUE(status.ok()) << what << " failed early: " << status.message();
      status = pair.feed_server(bytes);
    }
    EXPECT_EQ(status.code(), Code::corrupt_data) << what << ": " << status.message();
  };
  expect_corrupt({frame(FrameKind::hello, 0, hello())}, "a second hello");
  expect_corrupt({frame(FrameKind::response, 1, response(0))}, "a response to a server");
  expect_corrupt({frame(FrameKind::request, 1, "\xFF\xFF")}, "no protobuf");
  expect_corrupt({frame(FrameKind::request, 1, request(0, ""))}, "no method");
  expect_corrupt({frame(FrameKind::request, 1, request(0, std::string(200, 'x')))}, "a long method");
  expect_corrupt({frame(FrameKind::request, 1, request(5)), frame(FrameKind::request, 1, request(5))}, "a reused ID");
  expect_corrupt({frame(FrameKind::request, 1, request(5)), frame(FrameKind::chunk, 1, "123456")}, "too many bytes");
  expect_corrupt({frame(FrameKind::request, 1, request(5)), frame(FrameKind::chunk, 1, "")}, "an empty chunk");
  expect_corrupt({frame(FrameKind::goodbye, 0, "\xFF")}, "an unreadable goodbye");

  Session fresh(Session::Side::server, {"s", "r", {}});
  EXPECT_EQ(fresh.receive(frame(FrameKind::ping, 0, "")).code(), Code::corrupt_data) << "no hello";
  Session unreadable(Session::Side::server, {"s", "r", {}});
  EXPECT_EQ(unreadable.receive(frame(FrameKind::hello, 0, "\xFF")).code(), Code::corrupt_data);

  Pair pair;
  EXPECT_EQ(pair.client.receive(frame(FrameKind::request, 1, request(0))).code(), Code::corrupt_data);
  Pair twice;
  twice.client.send_request(1, "m", {});
  ASSERT_TRUE(twice.client.receive(frame(FrameKind::response, 1, response(5))).ok());
  EXPECT_EQ(twice.client.receive(frame(FrameKind::response, 1, response(5))).code(), Code::corrupt_data);
}

TEST(Session, PayloadsBeyondTheLimitsAreRefusedAndTheConnectionLives) {
  Limits limits;
  limits.max_payload_bytes = 1000;
  limits.max_arriving_bytes = 1500;
  Pair pair(limits);
  const auto refusal = [&](uint64_t id) {
    Bytes bytes;
    while (pair.server.next_output(bytes)) {
    }
    pair.client.send_request(id, "m", {});
    EXPECT_TRUE(pair.client.receive(bytes).ok());
    return pair.client_event().result.status();
  };
  ASSERT_TRUE(pair.feed_server(frame(FrameKind::request, 1, request(1001))).ok());
  EXPECT_EQ(refusal(1).code(), Code::invalid_argument);
  ASSERT_TRUE(pair.feed_server(frame(FrameKind::request, 1, request(uint64_t{1} << 63))).ok());
  EXPECT_EQ(refusal(1).code(), Code::invalid_argument);
  ASSERT_TRUE(pair.feed_server(frame(FrameKind::request, 2, request(1000))).ok());
  ASSERT_TRUE(pair.feed_server(frame(FrameKind::request, 3, request(1000))).ok());
  EXPECT_EQ(refusal(3).code(), Code::out_of_memory);
  // The refused payload may still arrive; the accepted one completes, and makes room once it is answered.
  ASSERT_TRUE(pair.feed_server(frame(FrameKind::chunk, 3, std::string(1000, 'x'))).ok());
  ASSERT_TRUE(pair.feed_server(frame(FrameKind::chunk, 2, std::string(1000, 'x'))).ok());
  EXPECT_EQ(pair.server_event().call_id, 2u);
  ASSERT_TRUE(pair.feed_server(frame(FrameKind::request, 5, request(1000))).ok());
  EXPECT_EQ(refusal(5).code(), Code::out_of_memory);
  pair.client.send_request(2, "m", {});
  pair.server.send_response(2, Message{});
  Bytes answer;
  while (pair.server.next_output(answer)) {
  }
  ASSERT_TRUE(pair.feed_server(frame(FrameKind::request, 4, request(1000))).ok());
  EXPECT_FALSE(pair.server.has_output());
}

TEST(Session, AnOversizeResponseBecomesAnError) {
  Limits limits;
  limits.max_payload_bytes = 1000;
  Pair strict(limits);
  strict.client.send_request(1, "m", {});
  strict.pump();
  strict.server.send_response(1, Message{"", Bytes(1001)});
  strict.pump();
  EXPECT_EQ(strict.client_event().result.status().code(), Code::internal);

  Session client(Session::Side::client, {"c", "r", limits});
  ASSERT_TRUE(client.receive(frame(FrameKind::hello, 0, hello())).ok());
  Session::Event event;
  ASSERT_TRUE(client.next_event(event));
  client.send_request(1, "m", {});
  ASSERT_TRUE(client.receive(frame(FrameKind::response, 1, response(1001))).ok());
  ASSERT_TRUE(client.next_event(event));
  EXPECT_EQ(event.result.status().code(), Code::invalid_argument);
  EXPECT_TRUE(client.receive(frame(FrameKind::chunk, 1, std::string(1001, 'x'))).ok()) << "what still comes is dropped";
}

TEST(Session, TooManyCallsInFlightEndIt) {
  Limits limits;
  limits.max_calls_in_flight = 3;
  Pair pair(limits);
  for (uint64_t id = 1; id <= 3; ++id) ASSERT_TRUE(pair.feed_server(frame(FrameKind::request, id, request(0))).ok());
  EXPECT_EQ(pair.feed_server(frame(FrameKind::request, 4, request(0))).code(), Code::invalid_argument);
}

TEST(Session, RequestsThatCannotBeSentAreNamed) {
  Limits limits;
  limits.max_body_bytes = 10;
  limits.max_payload_bytes = 10;
  EXPECT_TRUE(Session::check_request("m", {"0123456789", Bytes(10)}, limits).ok());
  EXPECT_EQ(Session::check_request("", {}, limits).code(), Code::invalid_argument);
  EXPECT_EQ(Session::check_request(std::string(129, 'm'), {}, limits).code(), Code::invalid_argument);
  EXPECT_NE(Session::check_request("m", {"01234567890", {}}, limits).message().find("body of 11"), std::string::npos);
  EXPECT_NE(Session::check_request("m", {"", Bytes(11)}, limits).message().find("payload of 11"), std::string::npos);
}

}  // namespace
}  // namespace sporkle::mesh
