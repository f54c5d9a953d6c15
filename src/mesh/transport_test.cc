// Connections between client and server: resumed sessions, rates, and doing without encryption.
#include "mesh/transport.h"

#include <gtest/gtest.h>
#include <openssl/ssl.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "mesh/bandwidth.h"
#include "mesh/plain_stream.h"
#include "mesh/retry.h"
#include "mesh/test_peer.h"

namespace sporkle::mesh {
namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;

Bytes noise(size_t size, uint32_t state = 1) {
  Bytes bytes(size);
  for (std::byte& b : bytes) b = static_cast<std::byte>((state = state * 1664525 + 1013904223) >> 24);
  return bytes;
}

// A server that says who was connected, last.
struct NotingServer : TestServer {
  std::mutex mutex;
  Peer last;

  explicit NotingServer(const ServerOptions& options = loopback_options())
      : TestServer({echo_handler,
                    [this](const Peer& peer) {
                      const std::lock_guard lock(mutex);
                      last = peer;
                    },
                    nullptr, nullptr},
                   options) {}
  ~NotingServer() { server->stop(); }
  Peer last_peer() {
    const std::lock_guard lock(mutex);
    return last;
  }
};

// --- Resumption

TEST(Resumption, TheNextConnectionGoesOnFromTheLast) {
  NotingServer server;
  const Identity identity = *Identity::generate();
  ClientOptions options;
  options.sessions = std::make_shared<TlsSessionCache>();
  for (int i = 0; i < 4; ++i) {
    auto client = Client::connect(server.link(), identity, options);
    ASSERT_TRUE(client.ok()) << client.status().message();
    EXPECT_EQ((*client)->resumed(), i > 0) << i;
    EXPECT_TRUE((*client)->encrypted());
    EXPECT_TRUE((*client)->call("echo", {"x", noise(100'000)}, 10s).ok());
    EXPECT_EQ(server.last_peer().id, identity.id()) << "a resumed session still says whose it is";
  }
  const auto other = server.connect();
  EXPECT_FALSE(other->resumed()) << "without a cache nothing is resumed";
}

TEST(Resumption, ALostConnectionsSessionIsResumedToo) {
  // Freed without a goodbye, TLS's session would be thrown away, if nobody took care.
  const TestServer server;
  const Identity identity = *Identity::generate();
  const auto cache = std::make_shared<TlsSessionCache>();
  const auto context = *TlsContext::create(identity);
  for (int i = 0; i < 3; ++i) {
    RawSocket socket = RawSocket::connect(server.server->port());
    TlsStream tls(context, socket.get(), WireStream::Side::client, cache, server.identity.id());
    ASSERT_EQ(tls.handshake(), WireStream::Progress::done) << tls.error();
    EXPECT_EQ(tls.resumed(), i > 0) << i;
    // The server's hello comes with the handshake, the ticket behind it, and an answer after both.
    std::byte some[100];
    size_t count = 0;
    ASSERT_EQ(tls.read(some, count), WireStream::Progress::done);
    std::vector<std::byte> frames;
    wire::Hello hello;
    hello.set_protocol_major(protocol_major);
    const std::string data = hello.SerializeAsString();
    encode_frame({FrameKind::hello, protocol_major, 0, std::as_bytes(std::span(data))}, false, frames);
    encode_frame({FrameKind::ping}, false, frames);
    ASSERT_EQ(tls.write(frames, count), WireStream::Progress::done);
    ASSERT_EQ(tls.read(some, count), WireStream::Progress::done);
    EXPECT_EQ(cache->size(), 1u);
    socket.reset();
  }
}

TEST(Resumption, ATicketLeadsNowhereElse) {
  const Identity identity = *Identity::generate();
  ClientOptions options;
  options.sessions = std::make_shared<TlsSessionCache>();
  auto first = std::make_unique<TestServer>();
  ServerOptions server_options = loopback_options();
  server_options.port = first->server->port();
  RunLink link = first->link();
  EXPECT_TRUE((*Client::connect(link, identity, options))->call("echo", {}, 10s).ok());
  ASSERT_EQ(options.sessions->size(), 1u);
  first.reset();
  // Another key at the same address.
  const TestServer impostor({echo_handler, nullptr, nullptr, nullptr}, server_options);
  EXPECT_EQ(Client::connect(link, identity, options).status().code(), Code::permission_denied);
}

TEST(Resumption, ARestartedServerMakesAFullHandshake) {
  const Identity identity = *Identity::generate();
  const Identity server_identity = *Identity::generate();
  ServerOptions server_options = loopback_options();
  ClientOptions options;
  options.sessions = std::make_shared<TlsSessionCache>();
  for (int i = 0; i < 2; ++i) {
    auto server = Server::start(server_identity, server_options, {echo_handler, nullptr, nullptr, nullptr});
    ASSERT_TRUE(server.ok()) << server.status().message();
    server_options.port = (*server)->port();
    const RunLink link{server_identity.id(), {{"127.0.0.1", server_options.port}}, {}};
    for (int k = 0; k < 2; ++k) {
      auto client = Client::connect(link, identity, options);
      ASSERT_TRUE(client.ok()) << client.status().message();
      EXPECT_EQ((*client)->resumed(), k > 0);
      EXPECT_TRUE((*client)->call("echo", {}, 10s).ok());
    }
  }
}

TEST(Resumption, TheCacheIsBoundedAndGivesEachSessionOnce) {
  TlsSessionCache cache;
  const auto session = [] { return TlsSessionCache::Session(SSL_SESSION_new(), SSL_SESSION_free); };
  NodeId a, b;
  b.bytes[0] = std::byte{1};
  const auto older = session(), newer = session();
  cache.put(a, older);
  cache.put(a, newer);
  EXPECT_EQ(cache.take(b), nullptr);
  EXPECT_EQ(cache.take(a), newer);
  EXPECT_EQ(cache.take(a), older);
  EXPECT_EQ(cache.take(a), nullptr);
  for (int i = 0; i < 1000; ++i) cache.put(b, session());
  EXPECT_LE(cache.size(), 64u);
}

// --- Rates

TEST(Bandwidth, LetsSoMuchGoInATime) {
  Bandwidth limit(1000);
  Clock::TimePoint now{std::chrono::hours(1)};
  const Clock::TimePoint start = now;
  size_t sent = 0;
  while (now < start + 10s) {
    if (limit.wait(now).count() > 0) {
      now += limit.wait(now);
      continue;
    }
    limit.use(50, now);
    sent += 50;
  }
  EXPECT_GE(sent, 9'900u);
  EXPECT_LE(sent, 10'200u);
  // A long pause is not made up for.
  now += 1000s;
  limit.use(0, now);
  sent = 0;
  while (limit.wait(now).count() == 0) limit.use(50, now), sent += 50;
  EXPECT_LE(sent, 150u);
  EXPECT_EQ(limit.piece_bytes(10'000), 1024u);
  EXPECT_EQ(Bandwidth(0).wait(now).count(), 0);
  EXPECT_EQ(Bandwidth(0).piece_bytes(10'000), 10'000u);
}

double seconds_to_send(Client& client, size_t size) {
  const auto start = steady_clock::now();
  EXPECT_TRUE(client.call("count", {"", noise(size)}, 60s).ok());
  return std::chrono::duration<double>(steady_clock::now() - start).count();
}

ServerCallbacks counting() {
  return {[](const Peer&, std::string_view, const Message& request, Responder respond) {
            respond(Message{std::to_string(request.payload.size()), {}});
          },
          nullptr, nullptr, nullptr};
}

TEST(Bandwidth, AnUploadKeepsToItsLimitAndCallsGoPastIt) {
  const TestServer server(counting());
  ClientOptions options;
  options.upload_limit_bytes_per_s = 2'000'000;
  const auto client = server.connect(options);
  std::atomic<bool> done{false};
  double slowest = 0;
  int calls = 0;
  std::thread heartbeats([&] {
    while (!done) {
      const auto start = steady_clock::now();
      EXPECT_TRUE(client->call("tick", {}, 10s).ok());
      slowest = std::max(slowest, std::chrono::duration<double>(steady_clock::now() - start).count());
      ++calls;
      std::this_thread::sleep_for(20ms);
    }
  });
  const double seconds = seconds_to_send(*client, 2'000'000);
  done = true;
  heartbeats.join();
  EXPECT_GE(seconds, 0.8);
  EXPECT_LE(seconds, 3.0);
  EXPECT_GE(calls, 5);
  EXPECT_LE(slowest, 0.6) << "a heartbeat waits for a piece, not for the tensor";
}

TEST(Bandwidth, TheServersLimitsHoldForANodesConnectionsTogether) {
  ServerOptions server_options = loopback_options();
  server_options.download_limit_bytes_per_s = 2'000'000;
  const TestServer server(counting(), server_options);
  const Identity identity = *Identity::generate();
  const auto one = *Client::connect(server.link(), identity), two = *Client::connect(server.link(), identity);
  const auto start = steady_clock::now();
  std::thread other([&] { seconds_to_send(*two, 1'000'000); });
  seconds_to_send(*one, 1'000'000);
  other.join();
  const double seconds = std::chrono::duration<double>(steady_clock::now() - start).count();
  EXPECT_GE(seconds, 0.8);
  EXPECT_LE(seconds, 4.0);
}

TEST(Bandwidth, ALimitedConnectionClosesAtOnce) {
  const TestServer server(counting());
  ClientOptions options;
  options.upload_limit_bytes_per_s = 1000;
  auto client = server.connect(options);
  client->start_call("count", {"", noise(10'000'000)}, [](const Result<Message>&) {});
  std::this_thread::sleep_for(50ms);
  const auto start = steady_clock::now();
  client.reset();
  EXPECT_LE(steady_clock::now() - start, 2s);
}

// --- Without encryption

TEST(Plaintext, WorksWhereBothSidesSaySo) {
  ServerOptions server_options = loopback_options();
  server_options.plaintext = true;
  NotingServer server(server_options);
  const Identity identity = *Identity::generate();
  ClientOptions options;
  options.plaintext = true;
  auto client = Client::connect(server.link(), identity, options);
  ASSERT_TRUE(client.ok()) << client.status().message();
  EXPECT_FALSE((*client)->encrypted());
  const Bytes payload = noise(5'000'000);
  EXPECT_TRUE((*client)->call("echo", {"", payload}, 30s)->payload == payload);
  EXPECT_EQ(server.last_peer().id, identity.id()) << "who it is is proved all the same";
  EXPECT_FALSE(server.last_peer().encrypted);
  // Whoever does not ask for it is encrypted, there too.
  auto careful = Client::connect(server.link(), identity);
  ASSERT_TRUE(careful.ok()) << careful.status().message();
  EXPECT_TRUE((*careful)->encrypted());
  EXPECT_TRUE((*careful)->call("echo", {}, 10s).ok());
}

TEST(Plaintext, IsRefusedWithTheReasonOnBothSides) {
  const TestServer server;
  ClientOptions options;
  options.plaintext = true;
  testing::internal::CaptureStderr();
  const Status status = Client::connect(server.link(), *Identity::generate(), options).status();
  EXPECT_TRUE(server.connect()->call("echo", {}, 10s).ok());
  server.server->stop();  // so that it has said what it had to say
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find("asked for a connection without encryption (--plaintext)"), std::string::npos) << said;
  EXPECT_EQ(status.code(), Code::unsupported) << status.message();
  EXPECT_FALSE(is_retryable(status));
  EXPECT_NE(status.message().find("--plaintext"), std::string::npos) << status.message();
}

TEST(Plaintext, TheWrongKeyIsRefused) {
  ServerOptions server_options = loopback_options();
  server_options.plaintext = true;
  const TestServer server({echo_handler, nullptr, nullptr, nullptr}, server_options);
  RunLink link = server.link();
  link.coordinator = Identity::generate()->id();
  ClientOptions options;
  options.plaintext = true;
  EXPECT_EQ(Client::connect(link, *Identity::generate(), options).status().code(), Code::permission_denied);
}

// Both ends of a pair of sockets, one of them driven by hand.
struct PlainPair {
  int ends[2] = {-1, -1};
  PlainPair() { EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0); }
  ~PlainPair() {
    ::close(ends[0]);
    ::close(ends[1]);
  }
};

TEST(Plaintext, AProofIsWorthOneHandshake) {
  const Identity victim = *Identity::generate(), server_identity = *Identity::generate();
  Bytes recorded(80 + 64);
  {
    PlainPair pair;
    std::thread honest([&] {
      PlainStream stream(victim, pair.ends[0], WireStream::Side::client);
      EXPECT_EQ(stream.handshake(), WireStream::Progress::done) << stream.error();
      EXPECT_EQ(*stream.peer_id(), server_identity.id());
    });
    // In the middle, passing all on and noting what the client said.
    PlainPair behind;
    std::thread server([&] {
      PlainStream stream(server_identity, behind.ends[0], WireStream::Side::server);
      EXPECT_EQ(stream.handshake(), WireStream::Progress::done) << stream.error();
      EXPECT_EQ(*stream.peer_id(), victim.id());
    });
    const auto pass = [](int from, int to, std::byte* into, size_t size) {
      EXPECT_EQ(::recv(from, into, size, MSG_WAITALL), static_cast<ssize_t>(size));
      EXPECT_EQ(::send(to, into, size, 0), static_cast<ssize_t>(size));
    };
    Bytes other(80);
    pass(pair.ends[1], behind.ends[1], recorded.data(), 80);
    pass(behind.ends[1], pair.ends[1], other.data(), 80);
    pass(pair.ends[1], behind.ends[1], recorded.data() + 80, 64);
    pass(behind.ends[1], pair.ends[1], other.data(), 64);
    honest.join();
    server.join();
  }
  // Played again, to the same server.
  PlainPair pair;
  ASSERT_EQ(::send(pair.ends[1], recorded.data(), recorded.size(), 0), static_cast<ssize_t>(recorded.size()));
  PlainStream stream(server_identity, pair.ends[0], WireStream::Side::server);
  EXPECT_EQ(stream.handshake(), WireStream::Progress::failed);
  EXPECT_NE(stream.error().find("does not hold the key"), std::string::npos) << stream.error();
  EXPECT_FALSE(stream.peer_id().ok());
}

TEST(Plaintext, GarbageAndMirrorsAreRefused) {
  const Identity identity = *Identity::generate();
  {
    PlainPair pair;
    const Bytes garbage = noise(200);
    ASSERT_EQ(::send(pair.ends[1], garbage.data(), garbage.size(), 0), 200);
    PlainStream stream(identity, pair.ends[0], WireStream::Side::client);
    EXPECT_EQ(stream.handshake(), WireStream::Progress::failed);
  }
  PlainPair pair;
  std::thread mirror([&] {
    Bytes hello(80);
    EXPECT_EQ(::recv(pair.ends[1], hello.data(), hello.size(), MSG_WAITALL), 80);
    EXPECT_EQ(::send(pair.ends[1], hello.data(), hello.size(), 0), 80);
  });
  PlainStream stream(identity, pair.ends[0], WireStream::Side::client);
  EXPECT_EQ(stream.handshake(), WireStream::Progress::failed);
  mirror.join();
}

}  // namespace
}  // namespace sporkle::mesh
