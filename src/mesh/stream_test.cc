// Streams: sessions joined by the test, then clients and servers over sockets.
#include "mesh/stream.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <mutex>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "mesh/session.h"
#include "mesh/test_peer.h"

namespace sporkle::mesh {
namespace {

using namespace std::chrono_literals;
using Kind = Session::Event::Kind;

Bytes noise(size_t size, uint32_t state = 1) {
  Bytes bytes(size);
  for (std::byte& b : bytes) b = static_cast<std::byte>((state = state * 1664525 + 1013904223) >> 24);
  return bytes;
}

Bytes frame(FrameKind kind, uint64_t call_id, const std::string& data) {
  Bytes out;
  encode_frame({kind, protocol_major, call_id, std::as_bytes(std::span(data))}, false, out);
  return out;
}

// A client's and a server's session with small windows, joined by nothing but this test.
struct Pair {
  static constexpr uint32_t window = 100'000;
  static Limits limits() {
    Limits limits;
    limits.stream_window_bytes = window;
    return limits;
  }
  Session client{Session::Side::client, {"client 1", "worker", limits(), false}};
  Session server{Session::Side::server, {"server 1", "boss", limits(), false}};

  Pair() {
    pump();
    Session::Event event;
    EXPECT_TRUE(server.next_event(event));
    EXPECT_EQ(event.minor_version, protocol_minor);
    EXPECT_TRUE(client.next_event(event));
  }
  // Returns how many bytes went.
  static size_t transfer(Session& from, Session& to) {
    Bytes bytes;
    while (from.next_output(bytes)) {
    }
    const Status status = to.receive(bytes);
    EXPECT_TRUE(status.ok()) << status.message();
    return bytes.size();
  }
  void pump() {
    while (client.has_output() || server.has_output()) {
      transfer(client, server);
      transfer(server, client);
    }
  }
  // Takes all the events there are; returns the bytes of the streams' data among them.
  static Bytes data_of(Session& session, std::vector<Session::Event>* others = nullptr) {
    Bytes all;
    Session::Event event;
    while (session.next_event(event)) {
      if (event.kind == Kind::stream_data)
        all.insert(all.end(), event.message.payload.begin(), event.message.payload.end());
      else if (others)
        others->push_back(std::move(event));
    }
    return all;
  }
};

TEST(SessionStream, CarriesBytesBothWaysAndEnds) {
  Pair pair;
  ASSERT_TRUE(pair.client.open_stream(1, "copy", "body", 1234).ok());
  pair.client.stream_write(1, SharedBytes(noise(50'000)));
  pair.client.stream_finish(1);
  pair.pump();
  std::vector<Session::Event> events;
  EXPECT_TRUE(Pair::data_of(pair.server, &events) == noise(50'000));
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].kind, Kind::stream_opened);
  EXPECT_EQ(events[0].method, "copy");
  EXPECT_EQ(events[0].message.body, "body");
  EXPECT_EQ(events[0].timeout_ms, 1234u);
  EXPECT_EQ(events[1].kind, Kind::stream_end);
  pair.server.stream_write(1, SharedBytes(noise(70'000, 2)));
  pair.server.send_response(1, Message{"done", {}});  // goes behind the bytes
  pair.pump();
  events.clear();
  EXPECT_TRUE(Pair::data_of(pair.client, &events) == noise(70'000, 2));
  ASSERT_FALSE(events.empty());
  EXPECT_EQ(events.back().kind, Kind::stream_over);
  ASSERT_TRUE(events.back().result.ok());
  EXPECT_EQ(events.back().result->body, "done");
  EXPECT_EQ(pair.client.calls_in_flight() + pair.server.calls_in_flight(), 0u);
  EXPECT_FALSE(events[0].cancellation && events[0].cancellation->requested());
}

TEST(SessionStream, ASenderStopsAtTheWindowAndGoesOnWhenItIsRead) {
  Pair pair;
  ASSERT_TRUE(pair.client.open_stream(1, "m", "").ok());
  const Bytes all = noise(5 * Pair::window);
  pair.client.stream_write(1, SharedBytes(all));
  Bytes arrived;
  for (int turn = 0; turn < 5; ++turn) {
    pair.pump();
    const Bytes more = Pair::data_of(pair.server);
    EXPECT_EQ(more.size(), Pair::window) << turn;
    EXPECT_FALSE(pair.client.has_output()) << "a stream without credit is nothing to send";
    arrived.insert(arrived.end(), more.begin(), more.end());
    // A call is not held up by a stream that is.
    pair.client.send_request(10, "m", {"", noise(1000)});
    pair.pump();
    Session::Event event;
    ASSERT_TRUE(pair.server.next_event(event));
    EXPECT_EQ(event.kind, Kind::request);
    pair.server.send_response(10, Message{});
    pair.pump();
    Pair::data_of(pair.client);
    pair.server.stream_consumed(1, more.size());
  }
  EXPECT_TRUE(arrived == all);
}

TEST(SessionStream, WindowsAreGivenBackHalfAtATime) {
  Pair pair;
  ASSERT_TRUE(pair.client.open_stream(1, "m", "").ok());
  pair.pump();
  pair.server.stream_consumed(1, Pair::window / 2 - 1);
  EXPECT_FALSE(pair.server.has_output());
  pair.server.stream_consumed(1, 1);
  EXPECT_TRUE(pair.server.has_output());
}

TEST(SessionStream, CancelAndFailureEndIt) {
  Pair pair;
  ASSERT_TRUE(pair.client.open_stream(1, "m", "").ok());
  pair.pump();
  std::vector<Session::Event> events;
  Pair::data_of(pair.server, &events);
  const auto cancellation = events.at(0).cancellation;
  bool told = false;
  cancellation->on_request([&] { told = true; });
  pair.client.cancel(1);
  pair.pump();
  events.clear();
  Pair::data_of(pair.server, &events);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].kind, Kind::stream_over);
  EXPECT_EQ(events[0].result.status().code(), Code::cancelled);
  EXPECT_TRUE(told);

  ASSERT_TRUE(pair.client.open_stream(2, "m", "").ok());
  pair.pump();
  pair.server.stream_write(2, SharedBytes(noise(10 * Pair::window)));
  pair.server.send_response(2, Status(Code::no_space, "full"));  // does not wait for the bytes
  pair.pump();
  events.clear();
  Pair::data_of(pair.client, &events);
  ASSERT_FALSE(events.empty());
  EXPECT_EQ(events.back().kind, Kind::stream_over);
  EXPECT_EQ(events.back().result.status().code(), Code::no_space);
  EXPECT_EQ(pair.client.calls_in_flight() + pair.server.calls_in_flight(), 0u);
}

TEST(SessionStream, AnExpiredCallIsAnsweredAndCancelledOnce) {
  Pair pair;
  pair.client.send_request(1, "m", {}, 50);
  pair.pump();
  Session::Event event;
  ASSERT_TRUE(pair.server.next_event(event));
  EXPECT_EQ(event.timeout_ms, 50u);
  int told = 0;
  event.cancellation->on_request([&] { ++told; });
  pair.server.expire(1);
  EXPECT_EQ(told, 1);
  pair.server.send_response(1, Message{"too late", {}});
  pair.pump();
  ASSERT_TRUE(pair.client.next_event(event));
  EXPECT_EQ(event.result.status().code(), Code::deadline_exceeded);
  EXPECT_FALSE(pair.client.next_event(event));
  EXPECT_EQ(told, 1);
  // One that was answered in time is not told.
  pair.client.send_request(2, "m", {}, 50);
  pair.pump();
  ASSERT_TRUE(pair.server.next_event(event));
  event.cancellation->on_request([&] { ++told; });
  pair.server.send_response(2, Message{});
  pair.server.expire(2);
  pair.pump();
  EXPECT_EQ(told, 1);
  ASSERT_TRUE(pair.client.next_event(event));
  EXPECT_TRUE(event.result.ok());
}

TEST(SessionStream, ViolationsOfTheProtocolEndTheConnection) {
  const auto expect_corrupt = [](const std::vector<Bytes>& frames, const std::string& what) {
    Pair pair;
    ASSERT_TRUE(pair.client.open_stream(1, "m", "").ok());
    pair.client.send_request(2, "plain", {});
    pair.pump();
    Status status;
    for (const Bytes& bytes : frames) {
      ASSERT_TRUE(status.ok()) << what << " failed early: " << status.message();
      status = pair.server.receive(bytes);
    }
    EXPECT_EQ(status.code(), Code::corrupt_data) << what << ": " << status.message();
  };
  const std::string much(Pair::window, 'x');
  const std::string four("\xFF\xFF\xFF\xFF", 4);
  expect_corrupt({frame(FrameKind::chunk, 1, much), frame(FrameKind::chunk, 1, "x")}, "more than the window");
  expect_corrupt({frame(FrameKind::chunk, 1, "")}, "an empty chunk");
  expect_corrupt({frame(FrameKind::end, 1, ""), frame(FrameKind::end, 1, "")}, "two ends");
  expect_corrupt({frame(FrameKind::end, 1, ""), frame(FrameKind::chunk, 1, "x")}, "a chunk after the end");
  expect_corrupt({frame(FrameKind::end, 2, "")}, "the end of a plain call");
  expect_corrupt({frame(FrameKind::window, 2, std::string("\1\0\0\0", 4))}, "a window of a plain call");
  expect_corrupt({frame(FrameKind::window, 1, "abc")}, "a short window");
  expect_corrupt({frame(FrameKind::window, 1, std::string(4, '\0'))}, "an empty window");
  expect_corrupt({frame(FrameKind::window, 1, four)}, "windows that overflow");
}

TEST(SessionStream, StreamsAreBoundedByTheLimitOfArrivingBytes) {
  Limits limits = Pair::limits();
  limits.max_arriving_bytes = 3 * Pair::window;
  Session server(Session::Side::server, {"s", "r", limits, false});
  Session client(Session::Side::client, {"c", "r", Pair::limits(), false});
  Pair::transfer(client, server);
  Pair::transfer(server, client);
  Pair::data_of(client);
  for (uint64_t id = 1; id <= 4; ++id) ASSERT_TRUE(client.open_stream(id, "m", "").ok());
  Pair::transfer(client, server);
  Pair::transfer(server, client);
  std::vector<Session::Event> events;
  Pair::data_of(client, &events);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].call_id, 4u);
  EXPECT_EQ(events[0].result.status().code(), Code::out_of_memory);
}

// --- Over sockets

// Hands every stream to the test.
struct Streams {
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<ServerStream> opened;

  ServerCallbacks callbacks() {
    ServerCallbacks callbacks{echo_handler, nullptr, nullptr, nullptr};
    callbacks.stream_handler = [this](const Peer&, std::string_view, const std::string&, ServerStream stream) {
      const std::lock_guard lock(mutex);
      opened.push_back(std::move(stream));
      changed.notify_all();
    };
    return callbacks;
  }
  ServerStream take() {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return !opened.empty(); });
    ServerStream first = std::move(opened.front());
    opened.erase(opened.begin());
    return first;
  }
};

template <typename Reader>
Bytes read_all(Reader& from) {
  Bytes all;
  for (;;) {
    auto bytes = from.read(30s);
    EXPECT_TRUE(bytes.ok()) << bytes.status().message();
    if (!bytes.ok() || bytes->empty()) return all;
    all.insert(all.end(), bytes->begin(), bytes->end());
  }
}

TEST(Stream, CarriesALongStreamWhileTheReaderIsSlow) {
  Streams streams;
  const TestServer server(streams.callbacks());
  const auto client = server.connect();
  auto stream = client->open_stream("sink", "", 60s);
  ASSERT_TRUE(stream.ok()) << stream.status().message();
  ServerStream sink = streams.take();
  const Bytes piece = noise(size_t{1} << 20);
  std::atomic<size_t> written{0};
  std::thread writer([&] {
    for (int i = 0; i < 64; ++i) {
      EXPECT_TRUE(stream->write(piece, 30s).ok());
      written += piece.size();
    }
    stream->finish_writing();
  });
  // Nobody reads: the writer gets as far as both windows (its queue's and the peer's) and one piece, and no further.
  const size_t most = 2 * size_t{Limits().stream_window_bytes} + piece.size();
  std::this_thread::sleep_for(200ms);
  EXPECT_LE(written, most);
  EXPECT_GE(written, size_t{Limits().stream_window_bytes});
  // And calls go past it.
  EXPECT_TRUE(client->call("echo", {"tick", {}}, 10s).ok());
  const Bytes all = read_all(sink);
  writer.join();
  ASSERT_EQ(all.size(), 64 * piece.size());
  for (size_t i = 0; i < 64; ++i)
    ASSERT_TRUE(std::equal(piece.begin(), piece.end(), all.begin() + static_cast<long>(i * piece.size())));
  sink.respond(std::to_string(all.size()));
  EXPECT_EQ(*stream->result(10s), std::to_string(all.size()));
}

TEST(Stream, TheServersWriterWaitsToo) {
  Streams streams;
  const TestServer server(streams.callbacks());
  const auto client = server.connect();
  auto stream = *client->open_stream("source", "", 60s);
  ServerStream source = streams.take();
  Status status;
  int pieces = 0;
  while ((status = source.write(noise(size_t{1} << 20), 100ms)).ok()) ++pieces;
  EXPECT_EQ(status.code(), Code::deadline_exceeded);
  EXPECT_LE(pieces, 10);
  source.respond(std::string("that was all"));
  EXPECT_EQ(read_all(stream).size(), static_cast<size_t>(pieces) << 20);
  EXPECT_EQ(*stream.result(10s), "that was all");
}

TEST(Stream, AReaderCallbackGetsEveryPieceInOrder) {
  Streams streams;
  const TestServer server(streams.callbacks());
  const auto client = server.connect();
  auto stream = *client->open_stream("sink", "", 60s);
  // The callback owns the handle and a state of its own, as a handler without a thread does.
  auto sink = std::make_shared<ServerStream>(streams.take());
  std::promise<Bytes> done;
  sink->read_with([&, sink, all = Bytes()](const Bytes& bytes) mutable {
    all.insert(all.end(), bytes.begin(), bytes.end());
    if (!bytes.empty()) return;
    sink->respond(std::to_string(all.size()));
    done.set_value(std::move(all));
  });
  sink.reset();
  Bytes sent;
  for (uint32_t i = 0; i < 40; ++i) {
    const Bytes piece = noise(300'000, i);
    sent.insert(sent.end(), piece.begin(), piece.end());
    ASSERT_TRUE(stream.write(piece, 30s).ok());
  }
  stream.finish_writing();
  EXPECT_TRUE(done.get_future().get() == sent);
  EXPECT_EQ(*stream.result(10s), std::to_string(sent.size()));
}

TEST(Stream, CancellationAndDeadlinesReachTheServer) {
  Streams streams;
  const TestServer server(streams.callbacks());
  const auto client = server.connect();
  {
    auto stream = *client->open_stream("m", "", 60s);
    ServerStream at_server = streams.take();
    std::promise<void> cancelled;
    at_server.on_cancelled([&] { cancelled.set_value(); });
    EXPECT_FALSE(at_server.ended());
    stream.cancel();
    EXPECT_EQ(stream.result(1s).status().code(), Code::cancelled);
    EXPECT_EQ(cancelled.get_future().wait_for(10s), std::future_status::ready);
    EXPECT_TRUE(at_server.ended());
    EXPECT_FALSE(at_server.write(Bytes(1), 1s).ok());
    EXPECT_EQ(at_server.read(1s).status().code(), Code::cancelled);
  }
  auto stream = *client->open_stream("m", "", 50ms);
  const ServerStream at_server = streams.take();
  EXPECT_EQ(stream.result(10s).status().code(), Code::deadline_exceeded);
  // Each side has a clock of its own.
  for (int i = 0; i < 1000 && !at_server.ended(); ++i) std::this_thread::sleep_for(10ms);
  EXPECT_TRUE(at_server.ended());
}

TEST(Stream, ItsDeadlineHoldsAgainstASilentServer) {
  RawListener listener;
  const Identity identity = *Identity::generate();
  std::promise<void> done;
  std::thread silent([&, until = done.get_future()] {
    RawPeer peer(listener.accept(), identity, WireStream::Side::server);
    peer.send_hello();
    until.wait();
  });
  {
    const RunLink link{identity.id(), {{"127.0.0.1", listener.port()}}, {}};
    const auto client = *Client::connect(link, *Identity::generate());
    auto stream = *client->open_stream("m", "", 100ms);
    const auto start = std::chrono::steady_clock::now();
    EXPECT_EQ(stream.result(10s).status().code(), Code::deadline_exceeded);
    EXPECT_GE(std::chrono::steady_clock::now() - start, 90ms);
    EXPECT_LE(std::chrono::steady_clock::now() - start, 5s);
    EXPECT_EQ(stream.write(Bytes(1), 1s).code(), Code::deadline_exceeded);
    EXPECT_TRUE(stream.ended());
  }
  done.set_value();
  silent.join();
}

TEST(Stream, DeadlinesOfCallsReachTheHandler) {
  std::promise<Responder> held;
  std::promise<void> abandoned;
  const TestServer server({[&](const Peer&, std::string_view, const Message&, Responder respond) {
                             const auto left = *respond.deadline() - std::chrono::steady_clock::now();
                             EXPECT_GT(left, 0ms);
                             EXPECT_LE(left, 200ms);
                             respond.on_abandoned([&] { abandoned.set_value(); });
                             held.set_value(std::move(respond));
                           },
                           nullptr, nullptr, nullptr});
  const auto client = server.connect();
  EXPECT_EQ(client->call("wait", {}, 200ms).status().code(), Code::deadline_exceeded);
  EXPECT_EQ(abandoned.get_future().wait_for(10s), std::future_status::ready);
  EXPECT_TRUE(held.get_future().get().abandoned());
}

TEST(Stream, TheEndOfTheConnectionEndsIt) {
  Streams streams;
  const TestServer server(streams.callbacks());
  auto client = server.connect();
  auto stream = *client->open_stream("m", "", 0ms);
  ServerStream at_server = streams.take();
  client->close();
  EXPECT_EQ(at_server.read(10s).status().code(), Code::unavailable);
  EXPECT_FALSE(stream.read(10s).ok());
  EXPECT_FALSE(stream.write(Bytes(1), 10s).ok());
  client.reset();
  EXPECT_FALSE(stream.write(Bytes(1), 10s).ok()) << "a stream outlives its client";
}

TEST(Stream, ServersWithoutAHandlerRefuseAndADroppedStreamAnswers) {
  const TestServer deaf;
  auto refused = *deaf.connect()->open_stream("m", "", 10s);
  EXPECT_FALSE(refused.result(10s).ok());
  const auto client = deaf.connect();
  auto stream = *client->open_stream("m", "", 10s);
  EXPECT_EQ(stream.result(10s).status().code(), Code::not_found);

  ServerCallbacks callbacks{echo_handler, nullptr, nullptr, nullptr};
  callbacks.stream_handler = [](const Peer&, std::string_view, const std::string&, const ServerStream&) {};
  const TestServer dropping(std::move(callbacks));
  const auto other = dropping.connect();
  auto dropped = *other->open_stream("m", "", 10s);
  EXPECT_EQ(dropped.result(10s).status().code(), Code::internal);
}

}  // namespace
}  // namespace sporkle::mesh
