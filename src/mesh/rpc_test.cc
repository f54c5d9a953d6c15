// Client and Server together, behaving well.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <functional>
#include <future>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "mesh/test_peer.h"

namespace sporkle::mesh {
namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;

Bytes noise(size_t size) {
  std::mt19937_64 random(size);
  Bytes bytes(size);
  for (size_t i = 0; i + 8 <= size; i += 8) {
    const uint64_t word = random();
    std::memcpy(bytes.data() + i, &word, 8);
  }
  return bytes;
}

// Parks requests for the test to answer, as a long poll would.
class Parking {
 public:
  ServerCallbacks callbacks() {
    return {[this](const Peer&, std::string_view, Message request, Responder respond) {
              const std::lock_guard lock(mutex_);
              parked_.emplace_back(std::move(request), std::move(respond));
              changed_.notify_all();
            },
            nullptr, nullptr};
  }
  std::pair<Message, Responder> take() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !parked_.empty(); });
    auto first = std::move(parked_.front());
    parked_.erase(parked_.begin());
    return first;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::pair<Message, Responder>> parked_;
};

template <typename Condition>
bool eventually(Condition condition) {
  const auto deadline = steady_clock::now() + 10s;
  while (!condition()) {
    if (steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(1ms);
  }
  return true;
}

TEST(Rpc, EchoesPayloadsOfEverySize) {
  const TestServer server;
  const auto client = server.connect();
  for (const size_t size :
       {size_t{0}, size_t{1}, size_t{65'536}, size_t{65'537}, size_t{1'000'003}, size_t{64} << 20}) {
    const Bytes payload = noise(size);
    const auto result = client->call("echo", {"body", payload}, 60s);
    ASSERT_TRUE(result.ok()) << size << ": " << result.status().to_string();
    EXPECT_EQ(result.value().body, "body");
    EXPECT_TRUE(result.value().payload == payload) << size;
  }
}

TEST(Rpc, ManyCallsFromManyThreadsShareOneConnection) {
  std::atomic<int> connections{0};
  const TestServer server({echo_handler, [&](const Peer&) { ++connections; }, nullptr});
  const auto client = server.connect();
  std::vector<std::thread> threads;
  std::atomic<int> good{0};
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 8; ++i) {
        const std::string body = std::to_string(t * 100 + i);
        const Bytes payload(static_cast<size_t>(t * 10'000 + i), static_cast<std::byte>(i));
        const auto result = client->call("echo", {body, payload}, 60s);
        good += result.ok() && result.value().body == body && result.value().payload == payload;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good, 64);
  EXPECT_EQ(connections, 1);
}

TEST(Rpc, SixtyFourCallsAreInFlightAtOnce) {
  Parking parking;
  const TestServer server(parking.callbacks());
  const auto client = server.connect();
  std::vector<std::future<Result<Message>>> calls;
  for (int i = 0; i < 64; ++i)
    calls.push_back(std::async(std::launch::async, [&, i] { return client->call("m", {std::to_string(i), {}}, 60s); }));
  std::vector<std::pair<Message, Responder>> parked;
  for (int i = 0; i < 64; ++i) parked.push_back(parking.take());  // so all 64 are at the server, none answered
  for (auto it = parked.rbegin(); it != parked.rend(); ++it) it->second(Message{it->first.body + "!", {}});
  for (int i = 0; i < 64; ++i) EXPECT_EQ(calls[static_cast<size_t>(i)].get().value().body, std::to_string(i) + "!");
}

TEST(Rpc, StartedCallsAnswerOnceAndMayStartMore) {
  const TestServer server;
  const auto client = server.connect();
  std::promise<int> last;
  int rounds = 0;  // on the client's thread only
  std::function<void(Result<Message>)> next = [&](Result<Message> answer) {
    if (!answer.ok() || answer->body != std::to_string(rounds)) return last.set_value(-1);
    if (++rounds == 100) return last.set_value(rounds);
    client->start_call("echo", {std::to_string(rounds), {}}, next);
  };
  EXPECT_NE(client->start_call("echo", {"0", {}}, next), 0u);
  EXPECT_EQ(last.get_future().get(), 100);
}

TEST(Rpc, StartedCallsEndByCancelCloseAndRefusal) {
  Parking parking;
  const TestServer server(parking.callbacks());
  const auto client = server.connect();
  std::vector<Code> ends;  // all three end on this thread
  const auto note = [&](const Result<Message>& answer) { ends.push_back(answer.status().code()); };
  const uint64_t first = client->start_call("m", {"1", {}}, note);
  auto parked = parking.take();
  client->cancel_call(first);
  EXPECT_TRUE(eventually([&] { return parked.second.abandoned(); }));
  client->cancel_call(first);
  client->start_call("m", {"2", {}}, note);
  client->close();
  EXPECT_EQ(client->start_call("m", {"3", {}}, note), 0u);
  EXPECT_EQ(ends, (std::vector<Code>{Code::cancelled, Code::cancelled, Code::cancelled}));
}

TEST(Rpc, AServerWithSeveralThreadsServesSeveralClients) {
  ServerOptions options = loopback_options();
  options.threads = 3;
  const TestServer server({echo_handler, nullptr, nullptr}, options);
  std::vector<std::thread> threads;
  std::atomic<int> good{0};
  for (int t = 0; t < 6; ++t) {
    threads.emplace_back([&] {
      const auto client = server.connect();
      for (int i = 0; i < 10; ++i) good += client->call("echo", {"x", Bytes(100'000)}, 60s).ok();
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good, 60);
}

TEST(Rpc, SmallCallsDoNotWaitForALargeOne) {
  const TestServer server;
  const auto client = server.connect();
  std::atomic<bool> large_done{false};
  std::thread large([&] {
    EXPECT_TRUE(client->call("echo", {"", noise(size_t{32} << 20)}, 120s).ok());
    large_done = true;
  });
  int small_calls = 0;
  while (!large_done) {
    ASSERT_TRUE(client->call("echo", {"tick", {}}, 60s).ok());
    ++small_calls;
  }
  large.join();
  EXPECT_GT(small_calls, 10);
}

TEST(Rpc, ErrorsOfTheHandlerReachTheCaller) {
  const TestServer server;
  const auto client = server.connect();
  const Status status = client->call("nonsense", {}, 10s).status();
  EXPECT_EQ(status.code(), Code::not_found);
  EXPECT_EQ(status.message(), "no method 'nonsense'");
}

TEST(Rpc, LongPollsAreAnsweredFromAnotherThread) {
  Parking parking;
  const TestServer server(parking.callbacks());
  const auto client = server.connect();
  auto call = std::async(std::launch::async, [&] { return client->call("wait", {"question", {}}, 60s); });
  auto [request, respond] = parking.take();
  EXPECT_EQ(request.body, "question");
  EXPECT_FALSE(respond.abandoned());
  std::thread([&r = respond] {
    r(Message{"answer", {}});
    r(Message{"a second answer is ignored", {}});
  }).join();
  EXPECT_EQ(call.get().value().body, "answer");
}

TEST(Rpc, ADroppedResponderAnswersInternal) {
  const TestServer server({[](const Peer&, std::string_view, Message, Responder) {}, nullptr, nullptr});
  EXPECT_EQ(server.connect()->call("m", {}, 10s).status().code(), Code::internal);
}

TEST(Rpc, DeadlineEndsACallAndAbandonsItAtTheServer) {
  Parking parking;
  const TestServer server(parking.callbacks());
  const auto client = server.connect();
  const auto before = steady_clock::now();
  const Status status = client->call("wait", {}, 50ms).status();
  EXPECT_EQ(status.code(), Code::deadline_exceeded);
  EXPECT_NE(status.message().find("'wait'"), std::string::npos);
  EXPECT_NE(status.message().find("50 ms"), std::string::npos);
  EXPECT_GE(steady_clock::now() - before, 50ms);
  auto [request, respond] = parking.take();
  EXPECT_TRUE(eventually([&r = respond] { return r.abandoned(); }));
  respond(Message{"late", {}});
  // The connection is none the worse.
  auto next = std::async(std::launch::async, [&] { return client->call("again", {}, 10s); });
  parking.take().second(Message{"fine", {}});
  EXPECT_EQ(next.get().value().body, "fine");
}

TEST(Rpc, CloseCancelsPendingAndLaterCalls) {
  Parking parking;
  const TestServer server(parking.callbacks());
  const auto client = server.connect();
  auto call = std::async(std::launch::async, [&] { return client->call("wait", {}, 60s); });
  auto parked = parking.take();
  EXPECT_TRUE(client->connected());
  client->close();
  EXPECT_EQ(call.get().status().code(), Code::cancelled);
  EXPECT_EQ(client->call("more", {}, 10s).status().code(), Code::cancelled);
  EXPECT_FALSE(client->connected());
  EXPECT_TRUE(eventually([&] { return parked.second.abandoned(); }));
  client->close();
}

TEST(Rpc, RequestsBeyondTheLimitsAreRefusedBeforeSending) {
  const TestServer server;
  ClientOptions options;
  options.limits.max_payload_bytes = 1000;
  options.limits.max_calls_in_flight = 0;
  const auto client = server.connect(options);
  EXPECT_EQ(client->call("echo", {"", Bytes(1001)}, 10s).status().code(), Code::invalid_argument);
  EXPECT_EQ(client->call("echo", {std::string(2 << 20, 'x'), {}}, 10s).status().code(), Code::invalid_argument);
  EXPECT_EQ(client->call("", {}, 10s).status().code(), Code::invalid_argument);
  EXPECT_EQ(client->call("echo", {}, 10s).status().code(), Code::unavailable) << "too many calls in flight";
}

TEST(Rpc, EachSideLearnsWhoTheOtherIs) {
  std::promise<Peer> connected;
  std::promise<std::pair<Peer, Status>> disconnected;
  const TestServer server({echo_handler, [&](const Peer& peer) { connected.set_value(peer); },
                           [&](const Peer& peer, const Status& why) {
                             disconnected.set_value({peer, why});
                           }});
  const Identity identity = *Identity::generate();
  ClientOptions options;
  options.software = "test \x1b[0m client";
  options.role = "observer";
  auto client = *Client::connect(server.link(), identity, options);
  EXPECT_EQ(client->server_software(), "test server 1.2");
  EXPECT_EQ(client->server_address().port, server.server->port());
  const Peer peer = connected.get_future().get();
  EXPECT_EQ(peer.id, identity.id());
  EXPECT_EQ(peer.software, "test ?[0m client");
  EXPECT_EQ(peer.role, "observer");
  EXPECT_TRUE(peer.address.starts_with("127.0.0.1:")) << peer.address;
  EXPECT_EQ(server.server->connection_count(), 1u);
  client.reset();
  const auto [gone, why] = disconnected.get_future().get();
  EXPECT_EQ(gone.connection_id, peer.connection_id);
  EXPECT_EQ(why.code(), Code::unavailable);
  EXPECT_TRUE(eventually([&] { return server.server->connection_count() == 0; }));
}

TEST(Rpc, CountsTheBytesOnTheWire) {
  const TestServer server;
  const Identity identity = *Identity::generate();
  Traffic first;
  for (int round = 1; round <= 2; ++round) {
    auto client = *Client::connect(server.link(), identity);
    ASSERT_TRUE(client->call("echo", {"", noise(1'000'000)}, 10s).ok());
    const Traffic traffic = client->traffic();
    EXPECT_GT(traffic.bytes_sent, 1'000'000u);
    EXPECT_LT(traffic.bytes_sent, 1'020'000u);
    EXPECT_GT(traffic.bytes_received, 1'000'000u);
    EXPECT_LT(traffic.bytes_received, 1'020'000u);
    if (round == 1) {
      // The last bytes may be here before the server has counted them as sent.
      EXPECT_TRUE(
          eventually([&] { return server.server->traffic(identity.id()).bytes_sent == traffic.bytes_received; }));
      first = server.server->traffic(identity.id());
      EXPECT_EQ(first.bytes_received, traffic.bytes_sent);
    }
    const Traffic seen = server.server->traffic(identity.id());
    EXPECT_GE(seen.bytes_received, first.bytes_received * static_cast<uint64_t>(round))
        << "a node's connections add up";
    EXPECT_GE(server.server->total_traffic().bytes_received, seen.bytes_received);
  }
  EXPECT_EQ(server.server->traffic(Identity::generate()->id()).bytes_sent, 0u);
}

TEST(Rpc, DisconnectTellsTheClientWhy) {
  Parking parking;
  const TestServer server(parking.callbacks());
  const Identity identity = *Identity::generate();
  auto client = *Client::connect(server.link(), identity);
  auto call = std::async(std::launch::async, [&] { return client->call("wait", {}, 60s); });
  auto parked = parking.take();
  server.server->disconnect(identity.id(), Status(Code::permission_denied, "results failed verification"));
  const Status status = call.get().status();
  EXPECT_EQ(status.code(), Code::permission_denied);
  EXPECT_NE(status.message().find("results failed verification"), std::string::npos);
}

TEST(Rpc, ConnectingTriesTheNextAddress) {
  const TestServer server;
  uint16_t dead_port;
  {
    const RawListener gone;
    dead_port = gone.port();
  }
  RunLink link = server.link();
  link.addresses.insert(link.addresses.begin(), {"127.0.0.1", dead_port});
  auto client = Client::connect(link, *Identity::generate());
  ASSERT_TRUE(client.ok()) << client.status().to_string();
  EXPECT_EQ((*client)->server_address(), link.addresses[1]);

  link.addresses.pop_back();
  const Status nobody = Client::connect(link, *Identity::generate()).status();
  EXPECT_EQ(nobody.code(), Code::unavailable);
  EXPECT_NE(nobody.message().find(link.addresses[0].to_string()), std::string::npos) << nobody.message();
  link.addresses.clear();
  EXPECT_EQ(Client::connect(link, *Identity::generate()).status().code(), Code::invalid_argument);
}

TEST(Rpc, ConnectsByNameAndOnAnyAddress) {
  ServerOptions options = loopback_options();
  options.host = "";
  const TestServer server({echo_handler, nullptr, nullptr}, options);
  RunLink link = server.link();
  link.addresses[0].host = "localhost";
  const auto client = Client::connect(link, *Identity::generate());
  ASSERT_TRUE(client.ok()) << client.status().to_string();
  EXPECT_TRUE((*client)->call("echo", {}, 10s).ok());
}

TEST(Rpc, AnOccupiedPortIsNamed) {
  const TestServer server;
  ServerOptions options = loopback_options();
  options.port = server.server->port();
  const Status status = Server::start(server.identity, options, {echo_handler, nullptr, nullptr}).status();
  EXPECT_EQ(status.code(), Code::already_exists);
  EXPECT_NE(status.message().find("port " + std::to_string(options.port)), std::string::npos) << status.message();
}

TEST(Rpc, AnAddressThatIsNotOursIsAnError) {
  ServerOptions options;
  options.host = "203.0.113.1";  // a documentation address (RFC 5737)
  EXPECT_EQ(Server::start(*Identity::generate(), options, {echo_handler, nullptr, nullptr}).status().code(),
            Code::invalid_argument);
  options.host = "no-such-host.invalid";
  EXPECT_EQ(Server::start(*Identity::generate(), options, {echo_handler, nullptr, nullptr}).status().code(),
            Code::invalid_argument);
}

TEST(Rpc, ARestartedServerGetsItsPortBack) {
  ServerOptions options = loopback_options();
  auto first = std::make_unique<TestServer>();
  options.port = first->server->port();
  const auto client = first->connect();
  ASSERT_TRUE(client->call("echo", {}, 10s).ok());
  first.reset();
  const TestServer second({echo_handler, nullptr, nullptr}, options);
  EXPECT_TRUE(second.connect()->call("echo", {}, 10s).ok());
}

TEST(Rpc, AnswersMayComeAfterTheServerIsGone) {
  Parking parking;
  auto server = std::make_unique<TestServer>(parking.callbacks());
  const auto client = server->connect();
  auto call = std::async(std::launch::async, [&] { return client->call("wait", {}, 60s); });
  auto parked = parking.take();
  server.reset();
  EXPECT_EQ(call.get().status().code(), Code::unavailable);
  EXPECT_TRUE(parked.second.abandoned());
  parked.second(Message{"to nobody", {}});
}

}  // namespace
}  // namespace sporkle::mesh
