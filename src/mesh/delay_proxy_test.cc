#include "mesh/delay_proxy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <string>

#include "mesh/test_peer.h"

namespace sporkle::mesh {
namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;

// Long, beside what a busy machine may add.
constexpr std::chrono::milliseconds round_trip = 200ms;

std::unique_ptr<DelayProxy> proxy_to(uint16_t port) {
  auto proxy = DelayProxy::start({"127.0.0.1", 0}, {"127.0.0.1", port}, round_trip);
  EXPECT_TRUE(proxy.ok()) << proxy.status().to_string();
  return *std::move(proxy);
}

// How many round trips `action` takes, in the quickest of three tries.
template <typename Action>
double round_trips(const Action& action) {
  auto least = steady_clock::duration::max();
  for (int i = 0; i < 3; ++i) {
    const auto start = steady_clock::now();
    action();
    least = std::min(least, steady_clock::now() - start);
  }
  return std::chrono::duration<double>(least) / std::chrono::duration<double>(round_trip);
}

TEST(DelayProxy, ACallTakesOneRoundTripAndAConnectionTwo) {
  const TestServer server;
  const auto proxy = proxy_to(server.server->port());
  RunLink link = server.link();
  link.addresses = {{"127.0.0.1", proxy->port()}};
  const Identity identity = *Identity::generate();
  std::unique_ptr<Client> client;
  // TCP's own, and TLS's, which brings the server's hello as well.
  const double connecting = round_trips([&] {
    auto connected = Client::connect(link, identity);
    ASSERT_TRUE(connected.ok()) << connected.status().to_string();
    client = *std::move(connected);
  });
  EXPECT_GE(connecting, 2.0);
  EXPECT_LT(connecting, 2.9);
  const double calling = round_trips([&] { EXPECT_EQ(client->call("echo", {"far away", {}}, 10s)->body, "far away"); });
  EXPECT_GE(calling, 1.0);
  EXPECT_LT(calling, 1.9);
}

TEST(DelayProxy, BytesArriveInOrderAndWhole) {
  const TestServer server;
  const auto proxy = proxy_to(server.server->port());
  RunLink link = server.link();
  link.addresses = {{"127.0.0.1", proxy->port()}};
  const auto client = Client::connect(link, *Identity::generate());
  ASSERT_TRUE(client.ok()) << client.status().to_string();
  std::vector<std::byte> payload(5'000'000);
  uint32_t word = 1;
  for (std::byte& byte : payload) byte = static_cast<std::byte>((word = word * 1664525 + 1013904223) >> 24);
  const auto answer = (*client)->call("echo", {"", payload}, 30s);
  ASSERT_TRUE(answer.ok()) << answer.status().to_string();
  EXPECT_TRUE(std::ranges::equal(answer->payload, payload));
}

TEST(DelayProxy, TheEndOfAConnectionComesThroughLate) {
  RawListener listener;
  const auto proxy = proxy_to(listener.port());
  RawSocket near = RawSocket::connect(proxy->port());
  RawSocket far = listener.accept();
  const auto start = steady_clock::now();
  far.close();
  EXPECT_TRUE(near.ends());
  EXPECT_GE(steady_clock::now() - start, round_trip / 2);
}

TEST(DelayProxy, SaysWhatIsWrongWithAnAddress) {
  EXPECT_EQ(DelayProxy::start({"localhost", 0}, {"127.0.0.1", 1}, 1ms).status().code(), Code::invalid_argument);
  EXPECT_EQ(DelayProxy::start({"127.0.0.1", 0}, {"::1", 1}, 1ms).status().code(), Code::invalid_argument);
  RawListener taken;
  EXPECT_EQ(DelayProxy::start({"127.0.0.1", taken.port()}, {"127.0.0.1", 1}, 1ms).status().code(), Code::unavailable);
}

}  // namespace
}  // namespace sporkle::mesh
