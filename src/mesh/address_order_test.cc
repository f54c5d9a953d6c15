#include "mesh/address_order.h"

#include <gtest/gtest.h>

#include <chrono>

#include "mesh/test_peer.h"

namespace sporkle::mesh {
namespace {

using std::chrono::steady_clock;
using namespace std::chrono_literals;

TEST(AddressOrder, WhatWorkedThenFamiliesInTurnThenLoopback) {
  const std::vector<Address> worked{{"192.0.2.1", 1}, {"192.0.2.2", 1}};
  const std::vector<std::vector<Address>> sources{
      {{"127.0.0.1", 1}, {"192.0.2.3", 1}, {"2001:db8::3", 1}, {"192.0.2.1", 1}},
      {{"::1", 1}, {"2001:db8::4", 1}, {"example.org", 1}, {"2001:db8::3", 1}}};
  const std::vector<Address> expected{{"192.0.2.1", 1}, {"2001:db8::3", 1}, {"2001:db8::4", 1}, {"192.0.2.2", 1},
                                      {"192.0.2.3", 1}, {"example.org", 1}, {"127.0.0.1", 1},   {"::1", 1}};
  EXPECT_EQ(addresses_to_try(worked, sources), expected);
}

TEST(AddressOrder, IsBounded) {
  std::vector<Address> many;
  for (uint16_t port = 1; port < 1000; ++port) many.push_back({"h", port});
  EXPECT_EQ(addresses_to_try({}, {{many}}).size(), max_addresses_to_try);
  EXPECT_TRUE(addresses_to_try({}, {}).empty());
}

TEST(AddressOrder, Loopback) {
  EXPECT_TRUE(is_loopback("127.0.0.1"));
  EXPECT_TRUE(is_loopback("127.1.2.3"));
  EXPECT_TRUE(is_loopback("::1"));
  EXPECT_TRUE(is_loopback("localhost"));
  EXPECT_FALSE(is_loopback("127.example.org"));
  EXPECT_FALSE(is_loopback("::2"));
  EXPECT_FALSE(is_loopback("1.127.0.1"));
}

// Listens, and never says a word.
class SilentListener {
 public:
  RunLink link_with(const RunLink& other) const {
    RunLink link = other;
    link.addresses.insert(link.addresses.begin(), {"127.0.0.1", listener_.port()});
    return link;
  }

 private:
  RawListener listener_;
};

TEST(Racing, ASilentAddressHardlyDelaysTheNext) {
  const TestServer server;
  const SilentListener silent;
  ClientOptions options;
  options.connect_timeout = 10s;
  const auto before = steady_clock::now();
  const auto client = Client::connect(silent.link_with(server.link()), *Identity::generate(), options);
  ASSERT_TRUE(client.ok()) << client.status().to_string();
  EXPECT_LT(steady_clock::now() - before, 3s);
  EXPECT_EQ((*client)->server_address().port, server.server->port());
  EXPECT_TRUE((*client)->call("echo", {"still works", {}}, 10s).ok());
}

TEST(Racing, ASlowFirstAddressWinsWhenTheRestIsDead) {
  const TestServer server;
  RunLink link = server.link();
  {
    const RawListener gone;
    link.addresses.push_back({"127.0.0.1", gone.port()});
  }
  const SilentListener silent;
  ClientOptions options;
  options.connect_stagger = 0ms;  // all at once
  const auto client = Client::connect(silent.link_with(link), *Identity::generate(), options);
  ASSERT_TRUE(client.ok()) << client.status().to_string();
  EXPECT_TRUE((*client)->call("echo", {}, 10s).ok());
}

TEST(Racing, OfTwoThatAnswerOneIsTaken) {
  std::atomic<int> open{0};
  const TestServer server({echo_handler, [&](const Peer&) { ++open; }, [&](const Peer&, const Status&) { --open; }});
  RunLink link = server.link();
  link.addresses.assign(8, link.addresses[0]);
  ClientOptions options;
  options.connect_stagger = 0ms;
  for (int i = 0; i < 5; ++i) {
    auto client = Client::connect(link, *Identity::generate(), options);
    ASSERT_TRUE(client.ok()) << client.status().to_string();
    EXPECT_TRUE((*client)->call("echo", {}, 10s).ok());
    const auto deadline = steady_clock::now() + 5s;
    while (server.server->connection_count() > 1 && steady_clock::now() < deadline) std::this_thread::sleep_for(1ms);
    EXPECT_EQ(server.server->connection_count(), 1u) << "the others are closed";
    EXPECT_TRUE((*client)->connected());
  }
}

TEST(Racing, AnotherKeyDoesNotWin) {
  const TestServer server, impostor;
  RunLink link = server.link();
  link.addresses.insert(link.addresses.begin(), impostor.link().addresses[0]);
  const auto client = Client::connect(link, *Identity::generate());
  ASSERT_TRUE(client.ok()) << client.status().to_string();
  EXPECT_EQ((*client)->server_address(), link.addresses[1]);
}

TEST(Racing, EveryFailureIsTold) {
  const SilentListener one, two;
  const RunLink link = one.link_with(two.link_with({Identity::generate()->id(), {}, {}}));
  ClientOptions options;
  options.connect_timeout = 300ms;
  const auto before = steady_clock::now();
  const Status status = Client::connect(link, *Identity::generate(), options).status();
  EXPECT_EQ(status.code(), Code::deadline_exceeded) << status.to_string();
  EXPECT_LT(steady_clock::now() - before, 3s);
  for (const Address& address : link.addresses)
    EXPECT_NE(status.message().find(address.to_string()), std::string::npos) << status.message();
}

}  // namespace
}  // namespace sporkle::mesh
