// Client and Server against peers that break, lie or babble.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <openssl/ssl.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <ctime>
#include <future>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/log.h"
#include "mesh/test_peer.h"

namespace sporkle::mesh {
namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;

// A server that tells the test why each of its connections ended.
struct WatchedServer : TestServer {
  std::promise<Status> first_end;

  explicit WatchedServer(const ServerOptions& options = loopback_options())
      : TestServer({echo_handler, nullptr,
                    [this](const Peer&, const Status& why) {
                      if (!ended_) first_end.set_value(why);
                      ended_ = true;
                    }},
                   options) {}
  ~WatchedServer() { server->stop(); }
  void expect_still_serving() const { EXPECT_TRUE(connect()->call("echo", {"x", Bytes(10)}, 10s).ok()); }

 private:
  bool ended_ = false;
};

RunLink link_to(const RawListener& listener, const Identity& identity) {
  return {identity.id(), {{"127.0.0.1", listener.port()}}, {}};
}

TEST(Fault, AServerWithTheWrongKeyIsRefused) {
  const TestServer server;
  RunLink link = server.link();
  link.coordinator = Identity::generate()->id();
  const Status status = Client::connect(link, *Identity::generate()).status();
  EXPECT_EQ(status.code(), Code::permission_denied);
  EXPECT_NE(status.message().find("expected node " + link.coordinator.short_id()), std::string::npos)
      << status.message();
  EXPECT_NE(status.message().find("found " + server.identity.id().short_id()), std::string::npos) << status.message();
}

TEST(Fault, AWrongKeyOutweighsASilentAddress) {
  const TestServer server;
  RunLink link = server.link();
  link.coordinator = Identity::generate()->id();
  link.addresses.push_back({"127.0.0.1", 1});
  EXPECT_EQ(Client::connect(link, *Identity::generate()).status().code(), Code::permission_denied);
}

TEST(Fault, AClientOfAnotherVersionIsToldBothVersions) {
  const WatchedServer server;
  RawPeer peer = server.raw_client();
  peer.send_hello(protocol_major + 1);
  const std::string reason = peer.receive_goodbye();
  EXPECT_NE(reason.find("speaks protocol version 2.3"), std::string::npos) << reason;
  EXPECT_NE(reason.find("speaks 1.1"), std::string::npos) << reason;
  EXPECT_TRUE(peer.socket().ends());
  server.expect_still_serving();
}

TEST(Fault, AServerOfAnotherVersionIsRefusedWithBothVersions) {
  RawListener listener;
  const Identity identity = *Identity::generate();
  std::thread server([&] {
    RawPeer peer(listener.accept(), identity, TlsStream::Side::server);
    peer.send_hello(protocol_major + 1);
    peer.receive_goodbye();
  });
  const Status status = Client::connect(link_to(listener, identity), *Identity::generate()).status();
  server.join();
  EXPECT_EQ(status.code(), Code::unsupported);
  EXPECT_NE(status.message().find("2.3"), std::string::npos) << status.message();
  EXPECT_NE(status.message().find("1.1"), std::string::npos) << status.message();
}

TEST(Fault, RandomBytesToThePortLeaveItServing) {
  const TestServer server;
  const auto client = server.connect();
  std::mt19937 random(1);
  for (int i = 0; i < 200; ++i) {
    Bytes junk(random() % 2000);
    for (std::byte& b : junk) b = static_cast<std::byte>(random());
    // Some look like TLS at first.
    constexpr std::array<std::byte, 3> tls_start{std::byte{0x16}, std::byte{3}, std::byte{1}};
    if (i % 3 == 0 && junk.size() >= 3) std::copy(tls_start.begin(), tls_start.end(), junk.begin());
    RawSocket socket = RawSocket::connect(server.server->port());
    socket.send(junk);
    if (i % 2) socket.reset();
  }
  EXPECT_TRUE(client->call("echo", {}, 10s).ok());
  EXPECT_TRUE(server.connect()->call("echo", {}, 10s).ok());
}

TEST(Fault, RandomBytesInsideTlsEndTheConnectionAlone) {
  const WatchedServer server;
  std::mt19937 random(2);
  for (int i = 0; i < 20; ++i) {
    RawPeer peer = server.raw_client();
    if (i % 2) peer.send_hello();
    Bytes junk(32 + random() % 2000);
    for (std::byte& b : junk) b = static_cast<std::byte>(random());
    peer.send(junk);
    EXPECT_NE(peer.receive_goodbye(), "");
    EXPECT_TRUE(peer.socket().ends());
  }
  server.expect_still_serving();
}

TEST(Fault, BitFlippedFramesEndTheConnectionAlone) {
  WatchedServer server;
  RawPeer peer = server.raw_client();
  peer.send_hello();
  Bytes bytes;
  const std::string data(100, 'x');
  encode_frame({FrameKind::request, protocol_major, 1, std::as_bytes(std::span(data))}, false, bytes);
  bytes[80] ^= std::byte{4};
  peer.send(bytes);
  EXPECT_NE(peer.receive_goodbye().find("checksum"), std::string::npos);
  EXPECT_EQ(server.first_end.get_future().get().code(), Code::corrupt_data);
  server.expect_still_serving();
}

TEST(Fault, AClientWithoutACertificateIsRefused) {
  const TestServer server;
  RawSocket socket = RawSocket::connect(server.server->port());
  SSL_CTX* context = SSL_CTX_new(TLS_client_method());
  SSL* ssl = SSL_new(context);
  SSL_set_fd(ssl, socket.get());
  // In TLS 1.3 the client learns of the refusal after its own part of the handshake. What it may have read by then is
  // the server's hello, which anybody may.
  FrameDecoder decoder;
  std::array<std::byte, 4096> bytes;
  int frames = 0;
  for (int count = SSL_connect(ssl) == 1 ? SSL_read(ssl, bytes.data(), bytes.size()) : 0; count > 0;
       count = SSL_read(ssl, bytes.data(), bytes.size())) {
    decoder.push(std::span(bytes).first(static_cast<size_t>(count)));
    Frame frame;
    for (auto whole = decoder.next(frame); whole.ok() && *whole; whole = decoder.next(frame), ++frames)
      EXPECT_EQ(frame.kind, FrameKind::hello);
  }
  EXPECT_LE(frames, 1);
  SSL_free(ssl);
  SSL_CTX_free(context);
  EXPECT_EQ(server.server->connection_count(), 0u);
}

TEST(Fault, AClientThatVanishesInMidPayloadIsNoticed) {
  WatchedServer server;
  {
    RawPeer peer = server.raw_client();
    peer.send_hello();
    ASSERT_TRUE(peer.receive());
    peer.send_request(1, "echo", 10 << 20);
    peer.send(FrameKind::chunk, 1, std::string(100'000, 'x'));
    peer.socket().reset();
  }
  EXPECT_EQ(server.first_end.get_future().get().code(), Code::unavailable);
  server.expect_still_serving();
}

TEST(Fault, AClientThatVanishesInsideAFrameIsNoticed) {
  WatchedServer server;
  {
    RawPeer peer = server.raw_client();
    peer.send_hello();
    ASSERT_TRUE(peer.receive());
    peer.send(Bytes(20, std::byte{'S'}));
    // The ticket may lie there unread: closing the socket would reset the connection, and lose what was sent last.
    ::shutdown(peer.socket().get(), SHUT_WR);
    EXPECT_TRUE(peer.socket().ends());
  }
  const Status why = server.first_end.get_future().get();
  EXPECT_EQ(why.code(), Code::unavailable);
  EXPECT_NE(why.message().find("inside a frame"), std::string::npos) << why.message();
}

TEST(Fault, AClientThatVanishesWhileReceivingIsNoticed) {
  std::promise<void> ended;
  const Bytes large(64 << 20, std::byte{7});
  const TestServer server({[&](const Peer&, std::string_view, Message, Responder respond) {
                             respond(Message{"", large});
                           },
                           nullptr, [&](const Peer&, const Status&) { ended.set_value(); }});
  {
    RawPeer peer = server.raw_client();
    peer.send_hello();
    peer.send_request(1, "get", 0);
    for (int i = 0; i < 4; ++i) ASSERT_TRUE(peer.receive());
    peer.socket().reset();
  }
  ended.get_future().wait();
}

TEST(Fault, ALostServerFailsPendingCallsAtOnce) {
  RawListener listener;
  const Identity identity = *Identity::generate();
  std::thread server([&] {
    RawPeer peer(listener.accept(), identity, TlsStream::Side::server);
    peer.send_hello();
    while (auto frame = peer.receive())
      if (frame->first == FrameKind::request) break;
    peer.socket().reset();
  });
  const auto client = *Client::connect(link_to(listener, identity), *Identity::generate());
  const auto before = steady_clock::now();
  EXPECT_EQ(client->call("m", {}, 60s).status().code(), Code::unavailable);
  EXPECT_LT(steady_clock::now() - before, 30s);
  EXPECT_EQ(client->call("m", {}, 60s).status().code(), Code::unavailable);
  EXPECT_FALSE(client->connected());
  server.join();
}

TEST(Fault, AServerStoppedInMidCallSaysSo) {
  std::promise<void> called;
  std::vector<Responder> kept;
  TestServer server({[&](const Peer&, std::string_view, Message, Responder respond) {
                       kept.push_back(std::move(respond));
                       called.set_value();
                     },
                     nullptr, nullptr});
  const auto client = server.connect();
  auto call = std::async(std::launch::async, [&] { return client->call("m", {}, 60s); });
  called.get_future().wait();
  server.server->stop();
  server.server->stop();
  const Status status = call.get().status();
  EXPECT_EQ(status.code(), Code::unavailable);
  EXPECT_NE(status.message().find("shutting down"), std::string::npos) << status.message();
}

TEST(Fault, AFrozenServerIsNoticedByTheClientsKeepAlive) {
  RawListener listener;
  const Identity identity = *Identity::generate();
  std::promise<void> done;
  std::thread server([&] {
    RawPeer peer(listener.accept(), identity, TlsStream::Side::server);
    peer.send_hello();
    done.get_future().wait();  // as a stopped process: the socket is open, nobody reads
  });
  ClientOptions options;
  options.keep_alive_interval = 50ms;
  options.keep_alive_timeout = 300ms;
  const auto client = *Client::connect(link_to(listener, identity), *Identity::generate(), options);
  const Status status = client->call("m", {}, 60s).status();
  EXPECT_EQ(status.code(), Code::unavailable);
  EXPECT_NE(status.message().find("nothing heard"), std::string::npos) << status.message();
  done.set_value();
  server.join();
}

TEST(Fault, AFrozenClientIsNoticedByTheServersKeepAlive) {
  ServerOptions options = loopback_options();
  options.keep_alive_interval = 50ms;
  options.keep_alive_timeout = 300ms;
  WatchedServer server(options);
  RawPeer peer = server.raw_client();
  peer.send_hello();
  const Status why = server.first_end.get_future().get();
  EXPECT_NE(why.message().find("nothing heard"), std::string::npos) << why.message();
}

TEST(Fault, KeepAliveKeepsAnIdleConnection) {
  ServerOptions server_options = loopback_options();
  server_options.keep_alive_interval = 20ms;
  server_options.keep_alive_timeout = 2s;
  const TestServer server({echo_handler, nullptr, nullptr}, server_options);
  ClientOptions options;
  options.keep_alive_interval = 20ms;
  options.keep_alive_timeout = 2s;
  const auto client = server.connect(options);
  const Traffic before = client->traffic();
  std::this_thread::sleep_for(2500ms);
  EXPECT_GT(client->traffic().bytes_received, before.bytes_received);
  EXPECT_TRUE(client->call("echo", {}, 10s).ok());
}

TEST(Fault, AnUnfinishedHandshakeIsEnded) {
  ServerOptions options = loopback_options();
  options.handshake_timeout = 100ms;
  const TestServer server({echo_handler, nullptr, nullptr}, options);
  RawSocket silent = RawSocket::connect(server.server->port());
  RawPeer no_hello = server.raw_client();
  EXPECT_TRUE(silent.ends());
  while (no_hello.receive()) {
  }
  EXPECT_TRUE(no_hello.socket().ends());
}

TEST(Fault, ConnectingToASilentPortMeetsTheDeadline) {
  const RawListener listener;
  ClientOptions options;
  options.connect_timeout = 100ms;
  const auto before = steady_clock::now();
  const Status status =
      Client::connect(link_to(listener, *Identity::generate()), *Identity::generate(), options).status();
  EXPECT_EQ(status.code(), Code::deadline_exceeded) << status.to_string();
  EXPECT_LT(steady_clock::now() - before, 10s);
}

TEST(Fault, ConnectingToAProgramWithoutTlsIsAnError) {
  RawListener listener;
  std::thread other([&] {
    RawSocket socket = listener.accept();
    socket.send(std::as_bytes(std::span(std::string_view("220 mail.example.org ESMTP ready, who are you?\r\n"))));
    socket.ends();
  });
  const Status status = Client::connect(link_to(listener, *Identity::generate()), *Identity::generate()).status();
  other.join();
  EXPECT_EQ(status.code(), Code::unavailable);
  EXPECT_NE(status.message().find("TLS"), std::string::npos) << status.message();
}

TEST(Fault, BeyondMaxConnectionsTheNextWaitsItsTurn) {
  ServerOptions options = loopback_options();
  options.max_connections = 2;
  const TestServer server({echo_handler, nullptr, nullptr}, options);
  auto first = server.connect();
  const auto second = server.connect();
  ClientOptions impatient;
  impatient.connect_timeout = 200ms;
  EXPECT_FALSE(Client::connect(server.link(), *Identity::generate(), impatient).ok());
  auto third = std::async(std::launch::async, [&] { return server.connect(); });
  first.reset();
  EXPECT_TRUE(third.get()->call("echo", {}, 10s).ok());
  EXPECT_TRUE(second->call("echo", {}, 10s).ok());
}

TEST(Fault, OutOfDescriptorsTheServerWaitsWithoutSpinning) {
  const LogLevel level = log_level();
  set_log_level(LogLevel::off);
  const TestServer server;
  const auto early = server.connect();
  RawSocket late(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  rlimit old{};
  ::getrlimit(RLIMIT_NOFILE, &old);
  const rlimit low{std::min<rlim_t>(old.rlim_cur, 256), old.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &low), 0);
  std::vector<int> hoard;
  for (int fd; (fd = ::open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0;) hoard.push_back(fd);
  const sockaddr_in address = loopback(server.server->port());
  ASSERT_EQ(::connect(late.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  const std::clock_t before = std::clock();
  std::this_thread::sleep_for(500ms);
  EXPECT_LT(static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC, 0.25);
  EXPECT_TRUE(early->call("echo", {}, 10s).ok()) << "those connected are still served";
  for (const int fd : hoard) ::close(fd);
  ::setrlimit(RLIMIT_NOFILE, &old);
  RawPeer peer(std::move(late), *Identity::generate(), TlsStream::Side::client);
  peer.send_hello();
  EXPECT_TRUE(peer.receive());
  set_log_level(level);
}

}  // namespace
}  // namespace sporkle::mesh
