// A server against peers that want to do harm: it must go on serving, in bounded memory.
#include <gtest/gtest.h>
#include <malloc.h>

#include <atomic>
#include <chrono>
#include <deque>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "mesh/connection_load.h"
#include "mesh/session.h"
#include "mesh/test_peer.h"

namespace sporkle::mesh {
namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;

ServerOptions impatient(std::chrono::milliseconds patience = 400ms) {
  ServerOptions options = loopback_options();
  options.handshake_timeout = patience;
  return options;
}

size_t heap_bytes() {
  const auto info = ::mallinfo2();
  return info.uordblks + info.hblkhd;
}

size_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  size_t total = 0, resident = 0;
  file >> total >> resident;
  return resident * static_cast<size_t>(::sysconf(_SC_PAGESIZE));
}

void expect_serving(const TestServer& server) {
  const auto client = server.connect();
  ASSERT_TRUE(client);
  EXPECT_TRUE(client->call("echo", {"x", Bytes(10)}, 10s).ok());
}

TEST(Hostile, SlowHandshakesAreEndedInTimeWhateverTheyAreSlowAt) {
  const TestServer server({echo_handler, nullptr, nullptr, nullptr}, impatient());
  // A TLS client's first record, a byte at a time; and the start of one for each of many connections.
  const std::string record("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11);
  std::vector<RawSocket> sockets;
  for (int i = 0; i < 40; ++i) sockets.push_back(RawSocket::connect(server.server->port()));
  const auto start = steady_clock::now();
  for (const char& c : record) {
    for (RawSocket& socket : sockets) socket.send(std::as_bytes(std::span(&c, 1)));
    std::this_thread::sleep_for(20ms);
  }
  expect_serving(server);
  for (RawSocket& socket : sockets) EXPECT_TRUE(socket.ends());
  EXPECT_LE(steady_clock::now() - start, 5s);
  // One that is through with TLS, and slow with its hello.
  RawPeer slow = server.raw_client();
  Bytes hello;
  encode_frame({FrameKind::hello, protocol_major, 0, Bytes(2000)}, false, hello);
  for (size_t i = 0; i < 60; ++i) {
    slow.send(std::span(hello).subspan(i, 1));
    std::this_thread::sleep_for(10ms);
  }
  EXPECT_TRUE(slow.socket().ends());
  expect_serving(server);
}

TEST(Hostile, AHalfOpenFloodIsBoundedAndHonestPeersComeThrough) {
  ServerOptions options = impatient(1000ms);
  options.max_connections = 100;
  const TestServer server({echo_handler, nullptr, nullptr, nullptr}, options);
  expect_serving(server);  // what is allocated once has been
  const size_t before = heap_bytes();
  std::vector<RawSocket> sockets;
  for (int i = 0; i < 400; ++i) sockets.push_back(RawSocket::connect(server.server->port()));
  std::this_thread::sleep_for(200ms);
  EXPECT_LE(heap_bytes(), before + 140 * (size_t{40} << 10));
  // They have taken no place of a live node's, and of 512 handshakes only 128 are one address's.
  const auto start = steady_clock::now();
  expect_serving(server);
  EXPECT_LE(steady_clock::now() - start, 9s);
}

// Connections that never say a word, from the honest node's own address and from hundreds of others, renewed as fast as
// they are ended: with patience of 10 s they would hold every place for 10 s.
TEST(Hostile, AHalfOpenFloodKeepsNobodyOut) {
  ServerOptions options = loopback_options();
  options.max_connections = 20;
  options.max_handshakes = 120;
  options.max_handshakes_per_address = 50;
  const TestServer server({echo_handler, nullptr, nullptr, nullptr}, options);
  const auto early = server.connect();
  for (const unsigned addresses : {1u, 250u}) {
    std::atomic<bool> stop = false;
    std::atomic<size_t> made = 0;
    std::thread flood([&] {
      std::deque<RawSocket> sockets;
      for (unsigned i = 0; !stop; ++i) {
        RawSocket socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_in from = loopback(0);
        from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + i % addresses);
        (void)::bind(socket.get(), reinterpret_cast<const sockaddr*>(&from), sizeof from);
        const sockaddr_in to = loopback(server.server->port());
        if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0) ++made;
        sockets.push_back(std::move(socket));
        if (sockets.size() > 300) sockets.pop_front();
        std::this_thread::sleep_for(4ms);
      }
    });
    while (made < 200) std::this_thread::sleep_for(5ms);
    const auto start = steady_clock::now();
    for (int i = 0; i < 5; ++i) expect_serving(server);
    EXPECT_LE(steady_clock::now() - start, 4s) << "from " << addresses << " addresses";
    EXPECT_TRUE(early->call("echo", {"x", Bytes(10)}, 2s).ok());
    stop = true;
    flood.join();
  }
}

TEST(Hostile, RecursiveMessagesAreErrors) {
  // Groups in groups, as deep as a frame is long: a parser that follows them runs out of stack.
  for (const FrameKind kind : {FrameKind::hello, FrameKind::request, FrameKind::goodbye}) {
    for (const size_t depth : {size_t{50}, size_t{101}, size_t{16'000}}) {
      Session session(Session::Side::server, {"s", "r", {}, false});
      if (kind != FrameKind::hello) {
        Bytes hello;
        const std::byte version[] = {std::byte{8}, std::byte{protocol_major}};
        encode_frame({FrameKind::hello, protocol_major, 0, version}, false, hello);
        ASSERT_TRUE(session.receive(hello).ok());
      }
      Bytes nested(depth, std::byte{0x7B});  // the start of a group, field 15
      Bytes wire;
      encode_frame({kind, protocol_major, 1, nested}, false, wire);
      EXPECT_EQ(session.receive(wire).code(), Code::corrupt_data) << depth;
    }
  }
}

TEST(Hostile, WhoeverDoesNotReadItsAnswersCostsABoundedAmount) {
  ServerOptions options = loopback_options();
  options.limits.max_arriving_bytes = size_t{16} << 20;
  std::atomic<int> calls{0};
  const TestServer server({[&](const Peer&, std::string_view, const Message&, Responder respond) {
                             ++calls;
                             respond(Message{"", Bytes(size_t{4} << 20)});
                           },
                           nullptr, nullptr, nullptr},
                          options);
  const size_t before = heap_bytes();
  RawPeer peer = server.raw_client();
  peer.send_hello();
  for (uint64_t id = 1; id <= 200; ++id) peer.send_request(id, "give", 0);
  const auto deadline = steady_clock::now() + 10s;
  while (calls < 200 && steady_clock::now() < deadline) std::this_thread::sleep_for(10ms);
  EXPECT_EQ(calls, 200);
  // On a busy machine answers are still on their way to the connection, which drops them.
  const size_t most = before + (size_t{40} << 20);
  while (heap_bytes() > most && steady_clock::now() < deadline) std::this_thread::sleep_for(10ms);
  EXPECT_LE(heap_bytes(), most) << "200 answers of 4 MiB must not all be kept";
}

TEST(Hostile, RequestsThatAreNeverWholeCostWhatHasArrived) {
  const TestServer server;
  RawPeer peer = server.raw_client();
  peer.send_hello();
  const size_t before = resident_bytes();
  // Each announces 1 MiB and sends a byte.
  for (uint64_t id = 1; id <= 500; ++id) {
    peer.send_request(id, "echo", size_t{1} << 20);
    peer.send(FrameKind::chunk, id, "x");
  }
  expect_serving(server);
  EXPECT_LE(resident_bytes(), before + (size_t{32} << 20));
}

// Passes bytes on between a client and the server, and keeps the client's.
Bytes record_client(const TestServer& server, const Identity& identity) {
  RawListener listener;
  Bytes recorded;
  std::thread proxy([&] {
    RawSocket from = listener.accept();
    RawSocket to = RawSocket::connect(server.server->port());
    std::thread back([&] {
      std::array<std::byte, 4096> buffer;
      for (;;) {
        const ssize_t count = ::recv(to.get(), buffer.data(), buffer.size(), 0);
        if (count <= 0) break;
        from.send(std::span(buffer).first(static_cast<size_t>(count)));
      }
      ::shutdown(from.get(), SHUT_WR);
    });
    std::array<std::byte, 4096> buffer;
    for (;;) {
      const ssize_t count = ::recv(from.get(), buffer.data(), buffer.size(), 0);
      if (count <= 0) break;
      recorded.insert(recorded.end(), buffer.begin(), buffer.begin() + count);
      to.send(std::span(buffer).first(static_cast<size_t>(count)));
    }
    ::shutdown(to.get(), SHUT_WR);
    back.join();
  });
  {
    const RunLink link{server.identity.id(), {{"127.0.0.1", listener.port()}}, {}};
    auto client = Client::connect(link, identity);
    EXPECT_TRUE(client.ok()) << client.status().message();
    EXPECT_TRUE((*client)->call("pay", {"a lot", {}}, 10s).ok());
  }
  proxy.join();
  return recorded;
}

TEST(Hostile, AReplayedConnectionDoesNothing) {
  std::atomic<int> calls{0}, connects{0};
  const TestServer server({[&](const Peer&, std::string_view, Message request, Responder respond) {
                             ++calls;
                             respond(std::move(request));
                           },
                           [&](const Peer&) { ++connects; }, nullptr, nullptr},
                          impatient(1000ms));
  const Bytes recorded = record_client(server, *Identity::generate());
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(connects, 1);
  for (int i = 0; i < 3; ++i) {
    RawSocket socket = RawSocket::connect(server.server->port());
    socket.send(recorded);
    EXPECT_TRUE(socket.ends());
  }
  EXPECT_EQ(calls, 1) << "what was recorded must not be done again";
  EXPECT_EQ(connects, 1);
}

TEST(Hostile, ConnectionsCostLittleEach) {
  const auto load = measure_connections(600);
  ASSERT_TRUE(load.ok()) << load.status().message();
  EXPECT_EQ(load->connections, 600u);
  EXPECT_GT(load->bytes_each, 1000) << "they cannot be free";
  EXPECT_LE(load->bytes_each, 40 * 1024);
  EXPECT_LT(load->heartbeat_p99_ms, 1000);
}

}  // namespace
}  // namespace sporkle::mesh
