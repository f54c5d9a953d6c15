#include "mesh/relay.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>

#include "mesh/relay_circuit.h"
#include "mesh/relay_splice.h"
#include "mesh/relay_tenant.h"
#include "mesh/test_peer.h"

namespace sporkle::mesh {
namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;

std::string hex(std::span<const std::byte> bytes) {
  std::string text;
  for (const std::byte b : bytes) {
    constexpr char digits[] = "0123456789abcdef";
    text += digits[std::to_integer<int>(b) >> 4];
    text += digits[std::to_integer<int>(b) & 15];
  }
  return text;
}

template <typename Condition>
bool soon(Condition condition) {
  for (const auto until = steady_clock::now() + 10s; steady_clock::now() < until; std::this_thread::sleep_for(5ms))
    if (condition()) return true;
  return condition();
}

struct TestRelay {
  explicit TestRelay(RelayOptions options = {}, Identity key = *Identity::generate()) : identity(std::move(key)) {
    options.server.host = "127.0.0.1";
    auto started = Relay::start(identity, options);
    EXPECT_TRUE(started.ok()) << started.status().to_string();
    relay = *std::move(started);
  }
  RunLink link() const { return {identity.id(), {{"127.0.0.1", relay->port()}}, {}}; }
  std::unique_ptr<RelayTenant> tenant(const TestServer& server, uint16_t wanted_port = 0) const {
    RelayTenantOptions options;
    options.wanted_port = wanted_port;
    options.backoff.longest = 100ms;
    auto started = RelayTenant::start(link(), server.identity, options);
    EXPECT_TRUE(started.ok()) << started.status().to_string();
    if (!started.ok()) return nullptr;
    (*started)->forward_to({"127.0.0.1", server.server->port()});
    return *std::move(started);
  }
  Identity identity;
  std::unique_ptr<Relay> relay;
};

// To a server, through a port of loopback that may be a relay's.
Result<std::unique_ptr<Client>> connect_at(uint16_t port, const NodeId& server,
                                           std::chrono::milliseconds patience = 5s) {
  ClientOptions options;
  options.connect_timeout = patience;
  return Client::connect({server, {{"127.0.0.1", port}}, {}}, *Identity::generate(), options);
}

Bytes pattern(size_t size) {
  Bytes bytes(size);
  uint32_t state = 1;
  for (std::byte& b : bytes) b = static_cast<std::byte>((state = state * 1664525 + 1013904223) >> 24);
  return bytes;
}

TEST(RelayCircuit, BytesAndBounds) {
  CircuitToken token;
  for (size_t i = 0; i < token.size(); ++i) token[i] = static_cast<std::byte>(i);
  const RelayPreamble bytes = encode_relay_preamble(token);
  EXPECT_EQ(hex(bytes), "5350524a01000000000102030405060708090a0b0c0d0e0f");
  EXPECT_EQ(*decode_relay_preamble(bytes), token);
  const auto changed = [&](size_t at) {
    RelayPreamble other = bytes;
    other[at] ^= std::byte{2};
    return decode_relay_preamble(other).status().code();
  };
  EXPECT_EQ(changed(0), Code::corrupt_data);
  EXPECT_EQ(changed(4), Code::unsupported);
  EXPECT_EQ(changed(7), Code::corrupt_data);
  EXPECT_EQ(changed(8), Code::ok);
  EXPECT_EQ(decode_relay_preamble(std::span(bytes).first(23)).status().code(), Code::corrupt_data);
}

TEST(Pacer, HoldsASumToARate) {
  Pacer pacer(1000);
  const steady_clock::time_point start{1h};
  pacer.reserve(0, start);
  steady_clock::time_point last;
  for (int i = 0; i < 11; ++i) last = pacer.reserve(100, start);
  EXPECT_EQ(last - start, 900ms) << "a tenth of a second is given in advance";
  EXPECT_EQ(pacer.reserve(100, start + 1h), start + 1h - 100ms);
  Pacer unlimited(0);
  EXPECT_EQ(unlimited.reserve(1 << 30, start), start);
}

TEST(Relay, CarriesCallsEndToEnd) {
  const TestServer server;
  const TestRelay relay;
  const auto tenant = relay.tenant(server);
  ASSERT_NE(tenant, nullptr);
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 8; ++i) {
    auto client = connect_at(tenant->address().port, server.identity.id());
    ASSERT_TRUE(client.ok()) << client.status().to_string();
    clients.push_back(*std::move(client));
  }
  for (const auto& client : clients) {
    const Bytes payload = pattern(1 << 20);
    const auto answer = client->call("echo", {"body", payload}, 10s);
    ASSERT_TRUE(answer.ok()) << answer.status().to_string();
    EXPECT_EQ(answer->body, "body");
    EXPECT_TRUE(answer->payload == payload);
  }
  EXPECT_EQ(relay.relay->stats().circuits, clients.size());
  EXPECT_EQ(relay.relay->stats().circuits_joined, clients.size());
  clients.clear();
  EXPECT_TRUE(soon([&] { return relay.relay->stats().circuits == 0; })) << "a circuit ends with its connection";
}

TEST(Relay, TheRelaysOwnKeyIsNotTheNodes) {
  const TestServer server;
  const TestRelay relay;
  // Whoever answers at the address, the link's key decides.
  const auto client = connect_at(relay.relay->port(), server.identity.id());
  ASSERT_FALSE(client.ok());
  EXPECT_EQ(client.status().code(), Code::permission_denied);
}

// A relay that keeps what it carries, and changes a byte when it is told to.
class Tamperer {
 public:
  explicit Tamperer(uint16_t target) : thread_([this, target] { run(target); }) {}
  ~Tamperer() { thread_.join(); }
  uint16_t port() const { return listener_.port(); }
  void tamper() { tamper_ = true; }
  std::string seen() {
    const std::lock_guard lock(mutex_);
    return seen_;
  }

 private:
  void run(uint16_t target) {
    const RawSocket client = listener_.accept();
    const RawSocket server = RawSocket::connect(target);
    std::thread back([&] { copy(server, client, false); });
    copy(client, server, true);
    back.join();
  }
  void copy(const RawSocket& from, const RawSocket& to, bool may_tamper) {
    std::array<char, 4096> buffer;
    for (;;) {
      const ssize_t count = ::recv(from.get(), buffer.data(), buffer.size(), 0);
      if (count <= 0) break;
      if (may_tamper && tamper_) buffer[static_cast<size_t>(count) / 2] ^= 1;
      {
        const std::lock_guard lock(mutex_);
        seen_.append(buffer.data(), static_cast<size_t>(count));
      }
      if (::send(to.get(), buffer.data(), static_cast<size_t>(count), MSG_NOSIGNAL) != count) break;
    }
    ::shutdown(from.get(), SHUT_RDWR);
    ::shutdown(to.get(), SHUT_RDWR);
  }

  RawListener listener_;
  std::atomic<bool> tamper_{false};
  std::mutex mutex_;
  std::string seen_;
  std::thread thread_;
};

TEST(Relay, WhatARelaySeesSaysNothingAndWhatItChangesIsNoticed) {
  std::atomic<int> calls{0};
  const TestServer server({[&](const Peer& peer, std::string_view method, Message request, Responder respond) {
                             ++calls;
                             echo_handler(peer, method, std::move(request), std::move(respond));
                           },
                           nullptr, nullptr});
  const TestRelay relay;
  const auto tenant = relay.tenant(server);
  ASSERT_NE(tenant, nullptr);
  Tamperer tamperer(tenant->address().port);
  auto client = connect_at(tamperer.port(), server.identity.id());
  ASSERT_TRUE(client.ok()) << client.status().to_string();
  const std::string secret = "the weights of our model";
  EXPECT_EQ((*client)->call("echo", {secret, {}}, 5s)->body, secret);
  EXPECT_GT(tamperer.seen().size(), 2 * secret.size());
  EXPECT_EQ(tamperer.seen().find(secret), std::string::npos);
  tamperer.tamper();
  const auto answer = (*client)->call("echo", {secret, {}}, 5s);
  ASSERT_FALSE(answer.ok());
  EXPECT_EQ(answer.status().code(), Code::unavailable) << answer.status().to_string();
  EXPECT_EQ(calls, 1) << "what was changed never reached the server's code";
}

TEST(Relay, RefusesBeyondItsLimits) {
  const TestServer server, other;
  RelayOptions options;
  options.max_reservations = 1;
  options.max_circuits_of_one_node = 2;
  const TestRelay relay(options);
  const auto tenant = relay.tenant(server);
  ASSERT_NE(tenant, nullptr);
  const auto full = RelayTenant::start(relay.link(), other.identity);
  EXPECT_EQ(full.status().code(), Code::unavailable) << full.status().to_string();
  const uint16_t port = tenant->address().port;
  const auto one = connect_at(port, server.identity.id()), two = connect_at(port, server.identity.id());
  ASSERT_TRUE(one.ok() && two.ok());
  EXPECT_FALSE(connect_at(port, server.identity.id(), 2s).ok());
  EXPECT_EQ(relay.relay->stats().refused, 1u);
  EXPECT_TRUE((*one)->call("echo", {"still", {}}, 5s).ok());
}

TEST(Relay, ServesChosenNodesOnly) {
  const TestServer server, stranger;
  RelayOptions options;
  options.allowed = {server.identity.id()};
  const TestRelay relay(options);
  EXPECT_NE(relay.tenant(server), nullptr);
  const auto refused = RelayTenant::start(relay.link(), stranger.identity);
  EXPECT_EQ(refused.status().code(), Code::permission_denied) << refused.status().to_string();
}

TEST(Relay, BytesASecondAreBounded) {
  const TestServer server;
  RelayOptions options;
  options.bytes_per_second = 1 << 20;
  const TestRelay relay(options);
  const auto tenant = relay.tenant(server);
  ASSERT_NE(tenant, nullptr);
  const auto client = connect_at(tenant->address().port, server.identity.id());
  ASSERT_TRUE(client.ok());
  const auto start = steady_clock::now();
  ASSERT_TRUE((*client)->call("echo", {"", pattern(1 << 19)}, 20s).ok());  // half a MiB each way
  EXPECT_GT(steady_clock::now() - start, 700ms);
}

TEST(Relay, ForgottenAndIdleConnectionsEnd) {
  RelayOptions options;
  options.join_timeout = 300ms;
  options.idle_timeout = 500ms;
  const TestRelay relay(options);
  const TestServer server;
  // Reserves, and never fetches a circuit.
  const auto idle_tenant = RelayTenant::start(relay.link(), server.identity);
  ASSERT_TRUE(idle_tenant.ok());
  RawSocket stranger = RawSocket::connect((*idle_tenant)->address().port);
  EXPECT_TRUE(stranger.ends());
  EXPECT_TRUE(soon([&] { return relay.relay->stats().circuits == 0; }));
  RawSocket silent = RawSocket::connect(relay.relay->join_port());
  EXPECT_TRUE(silent.ends());
  RawSocket guesser = RawSocket::connect(relay.relay->join_port());
  guesser.send(encode_relay_preamble({}));
  EXPECT_TRUE(guesser.ends());
  EXPECT_GE(relay.relay->stats().refused, 2u);
  (*idle_tenant)->forward_to({"127.0.0.1", server.server->port()});
  RawSocket quiet = RawSocket::connect((*idle_tenant)->address().port);
  EXPECT_TRUE(soon([&] { return relay.relay->stats().circuits_joined == 1; }));
  EXPECT_TRUE(quiet.ends()) << "nothing moves on it";
}

TEST(Relay, ATenantComesBackToItsPort) {
  const TestServer server;
  const Identity key = *Identity::generate();
  RelayOptions options;
  std::optional<TestRelay> relay(std::in_place, options, key);
  const auto tenant = relay->tenant(server);
  ASSERT_NE(tenant, nullptr);
  const Address before = tenant->address();
  options.server.port = relay->relay->port();
  relay.reset();
  EXPECT_TRUE(soon([&] { return !tenant->connected(); }));
  relay.emplace(options, key);
  ASSERT_TRUE(soon([&] { return tenant->connected() && relay->relay->stats().reservations == 1; }));
  EXPECT_EQ(tenant->address(), before);
  const auto client = connect_at(before.port, server.identity.id());
  ASSERT_TRUE(client.ok()) << client.status().to_string();
  EXPECT_TRUE((*client)->call("echo", {}, 5s).ok());
}

TEST(Relay, AnAbsentTenantLosesItsPort) {
  const TestServer server;
  RelayOptions options;
  options.absence = 300ms;
  const TestRelay relay(options);
  auto tenant = relay.tenant(server);
  ASSERT_NE(tenant, nullptr);
  EXPECT_EQ(relay.relay->stats().reservations, 1u);
  tenant.reset();
  EXPECT_TRUE(soon([&] { return relay.relay->stats().reservations == 0; }));
}

TEST(Relay, RefusesWhatItCannotRead) {
  const TestRelay relay;
  const auto client = Client::connect(relay.link(), *Identity::generate());
  ASSERT_TRUE(client.ok());
  EXPECT_EQ((*client)->call("relay.reserve", {"\xff\xff", {}}, 5s).status().code(), Code::invalid_argument);
  EXPECT_EQ((*client)->call("relay.next_circuit", {}, 5s).status().code(), Code::not_found);
  EXPECT_EQ((*client)->call("hello", {}, 5s).status().code(), Code::unsupported);
  RelayOptions options;
  options.first_port = 20;
  options.last_port = 10;
  EXPECT_EQ(Relay::start(*Identity::generate(), options).status().code(), Code::invalid_argument);
}

}  // namespace
}  // namespace sporkle::mesh
