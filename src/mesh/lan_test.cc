// Datagrams byte by byte, and announcing and finding over loopback.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "base/sha256.h"
#include "mesh/lan_announcer.h"
#include "mesh/lan_scan.h"
#include "mesh/test_identity.h"
#include "mesh/token_bucket.h"

namespace sporkle::mesh {
namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;
using Bytes = std::vector<std::byte>;

constexpr uint64_t now_s = 1'700'000'000;

RunRecord record(const Identity& identity, const std::string& name = "lan run", uint64_t sequence = 1,
                 uint64_t expires = 4'000'000'000, std::byte run = std::byte{1}) {
  RunRecord fields;
  fields.run_id.fill(run);
  fields.sequence = sequence;
  fields.expires_unix_s = expires;
  fields.name = name;
  fields.addresses = {{"192.0.2.7", 7000}};
  return *RunRecord::sign(fields, identity);
}

Bytes datagram(const RunRecord& what) { return encode_lan_record(what.encode()); }

// A port that no test beside this one uses.
uint16_t free_port() {
  const int fd = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  socklen_t size = sizeof address;
  ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  ::close(fd);
  return ntohs(address.sin_port);
}

// A stranger on loopback who sends what he likes.
class Stranger {
 public:
  explicit Stranger(uint16_t port) : fd_(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)), port_(port) {}
  ~Stranger() { ::close(fd_); }
  Stranger(const Stranger&) = delete;
  Stranger& operator=(const Stranger&) = delete;

  void send(std::span<const std::byte> bytes, const char* host = "127.0.0.1") const {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port_);
    ::inet_pton(AF_INET, host, &address.sin_addr);
    ip_mreqn loopback{};
    loopback.imr_ifindex = 1;
    ::setsockopt(fd_, IPPROTO_IP, IP_MULTICAST_IF, &loopback, sizeof loopback);
    ::sendto(fd_, bytes.data(), bytes.size(), 0, reinterpret_cast<const sockaddr*>(&address), sizeof address);
  }
  // The sizes of all that arrives within `time`.
  std::vector<size_t> sizes_received(std::chrono::milliseconds time) const {
    std::vector<size_t> sizes;
    const auto until = steady_clock::now() + time;
    for (;;) {
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - steady_clock::now()).count();
      pollfd ready{fd_, POLLIN, 0};
      if (left <= 0 || ::poll(&ready, 1, static_cast<int>(left)) <= 0) return sizes;
      std::array<char, 4096> buffer;
      const ssize_t size = ::recv(fd_, buffer.data(), buffer.size(), 0);
      if (size >= 0) sizes.push_back(static_cast<size_t>(size));
    }
  }

 private:
  int fd_;
  uint16_t port_;
};

LanScanOptions scan_options(uint16_t port) {
  LanScanOptions options;
  options.scope = LanScope::loopback;
  options.port = port;
  return options;
}

LanAnnouncerOptions announcer_options(uint16_t port) {
  LanAnnouncerOptions options;
  options.scope = LanScope::loopback;
  options.port = port;
  return options;
}

std::unique_ptr<LanAnnouncer> announce(const RunRecord& what, const LanAnnouncerOptions& options) {
  auto announcer = LanAnnouncer::start([what]() -> Result<RunRecord> { return what; }, options);
  EXPECT_TRUE(announcer.ok()) << announcer.status().to_string();
  return *std::move(announcer);
}

TEST(LanDatagram, BytesAndBounds) {
  const Bytes query = encode_lan_query();
  EXPECT_EQ(query.size(), 1032u);
  EXPECT_EQ(to_hex(std::span(query).first(12)), "53504c4e0101000000000000");
  EXPECT_EQ(decode_lan_datagram(query)->kind, LanDatagram::Kind::query);
  const RunRecord known = record(known_identity());
  const Bytes bytes = datagram(known);
  EXPECT_EQ(to_hex(std::span(bytes).first(8)), "53504c4e01020000");
  EXPECT_LE(bytes.size(), query.size()) << "an answer is never longer than its question";
  const auto decoded = decode_lan_datagram(bytes);
  ASSERT_TRUE(decoded.ok());
  EXPECT_EQ(decoded->kind, LanDatagram::Kind::record);
  EXPECT_EQ(*RunRecord::parse(decoded->record), known);

  const auto changed = [&](size_t at, int value) {
    Bytes other = query;
    other[at] = static_cast<std::byte>(value);
    return decode_lan_datagram(other).status();
  };
  EXPECT_EQ(changed(0, 'X').code(), Code::corrupt_data);
  EXPECT_EQ(changed(4, 2).code(), Code::unsupported);
  EXPECT_EQ(changed(5, 3).code(), Code::corrupt_data);
  EXPECT_EQ(changed(6, 1).code(), Code::corrupt_data);
  EXPECT_EQ(decode_lan_datagram(std::span(query).first(7)).status().code(), Code::corrupt_data);
  EXPECT_EQ(decode_lan_datagram(std::span(query).first(8)).status().code(), Code::corrupt_data) << "a short query";
  Bytes longer = query;
  longer.push_back({});
  EXPECT_EQ(decode_lan_datagram(longer).status().code(), Code::corrupt_data);
}

TEST(LanCollector, KeepsVerifiedRunsOnly) {
  LanCollector collector(now_s);
  const Identity identity = known_identity();
  EXPECT_TRUE(*collector.receive(datagram(record(identity)), "192.0.2.9"));
  EXPECT_FALSE(*collector.receive(datagram(record(identity)), "192.0.2.9")) << "the same again";
  EXPECT_FALSE(*collector.receive(encode_lan_query(), "192.0.2.9"));
  EXPECT_FALSE(collector.receive(Bytes(50, std::byte{7}), "192.0.2.9").ok());
  EXPECT_EQ(collector.receive(datagram(record(identity, "old", 0)), "192.0.2.9").status().code(),
            Code::invalid_argument);
  EXPECT_EQ(collector.receive(datagram(record(*Identity::generate(), "late", 1, now_s)), "h").status().code(),
            Code::deadline_exceeded);
  RunRecord forged = record(*Identity::generate(), "lan run", 9);
  forged.key = identity.public_key();
  EXPECT_EQ(collector.receive(datagram(forged), "192.0.2.9").status().code(), Code::corrupt_data);
  EXPECT_TRUE(*collector.receive(datagram(record(identity, "newer", 2)), "fe80::1%eth0"));
  EXPECT_TRUE(*collector.receive(datagram(record(identity, "another", 1, 4'000'000'000, std::byte{2})), "h"));
  const auto runs = collector.runs();
  ASSERT_EQ(runs.size(), 2u);
  EXPECT_EQ(runs[0].record.name, "another");
  EXPECT_EQ(runs[1].record.name, "newer");
  EXPECT_EQ(runs[1].addresses(), (std::vector<Address>{{"fe80::1%eth0", 7000}, {"192.0.2.7", 7000}}));
}

TEST(LanCollector, AFloodIsBounded) {
  LanCollector collector(now_s);
  size_t taken = 0;
  for (size_t i = 0; i < 300; ++i) {
    const auto result = collector.receive(datagram(record(*Identity::generate())), "192.0.2." + std::to_string(i % 12));
    taken += result.ok() && *result;
  }
  EXPECT_EQ(taken, LanCollector::max_runs);
  EXPECT_EQ(collector.runs().size(), LanCollector::max_runs);
  LanCollector another(now_s);
  for (size_t i = 0; i < 50; ++i) (void)another.receive(datagram(record(*Identity::generate())), "192.0.2.1");
  EXPECT_EQ(another.runs().size(), LanCollector::max_runs_of_source) << "one source cannot fill the list";
  EXPECT_TRUE(*another.receive(datagram(record(known_identity())), "192.0.2.2"));
  // Junk with a record's header: after so many signatures nobody checks any more.
  LanCollector busy(now_s);
  RunRecord junk = record(known_identity());
  Status last;
  for (size_t i = 0; i <= LanCollector::max_signatures_checked; ++i) {
    junk.sequence = 100 + i;  // the signature is wrong now
    last = busy.receive(datagram(junk), "192.0.2.1").status();
  }
  EXPECT_EQ(last.code(), Code::unavailable) << last.message();
}

TEST(TokenBucket, SoManyASecondAndABurst) {
  TokenBucket bucket(2, 3);
  const Clock::TimePoint start{std::chrono::hours(1)};
  int taken = 0;
  for (int i = 0; i < 10; ++i) taken += bucket.take(start);
  EXPECT_EQ(taken, 3);
  EXPECT_FALSE(bucket.take(start + 400ms));
  EXPECT_TRUE(bucket.take(start + 600ms));
  for (int i = 0; i < 10; ++i) taken += bucket.take(start + 1h);
  EXPECT_EQ(taken, 6);
}

TEST(Lan, ARunIsFoundWithinASecond) {
  const uint16_t port = free_port();
  const RunRecord first = record(known_identity(), "first"), second = record(*Identity::generate(), "second");
  const auto one = announce(first, announcer_options(port));
  const auto two = announce(second, announcer_options(port));  // two coordinators on one machine
  const auto before = steady_clock::now();
  const auto scan = scan_lan(scan_options(port));
  EXPECT_LT(steady_clock::now() - before, 2s);
  ASSERT_TRUE(scan.ok()) << scan.status().to_string();
  ASSERT_EQ(scan->runs.size(), 2u);
  EXPECT_EQ(scan->runs[0].record, first);
  EXPECT_EQ(scan->runs[1].record, second);
  EXPECT_FALSE(scan->runs[0].source.empty());
  EXPECT_EQ(scan->left_out, 0u) << scan->why_left_out;

  LanScanOptions early = scan_options(port);
  early.duration = 30s;
  early.enough = [](const LanRun& run) { return run.record.name == "second"; };
  const auto start = steady_clock::now();
  EXPECT_TRUE(scan_lan(early).ok());
  EXPECT_LT(steady_clock::now() - start, 15s) << "the scan ends when it has what it was for";
}

TEST(Lan, NothingIsFoundWhereNothingIs) {
  LanScanOptions options = scan_options(free_port());
  options.duration = 100ms;
  const auto scan = scan_lan(options);
  ASSERT_TRUE(scan.ok()) << scan.status().to_string();
  EXPECT_TRUE(scan->runs.empty());
}

TEST(Lan, AnnouncementsAreHeardWithoutAsking) {
  const uint16_t port = free_port();
  LanAnnouncerOptions options = announcer_options(port);
  options.answers_per_second = options.answer_burst = 0;  // no answers at all
  options.interval = 50ms;
  const auto announcer = announce(record(known_identity()), options);
  LanScanOptions scan = scan_options(port);
  scan.duration = 10s;
  scan.enough = [](const LanRun&) { return true; };
  EXPECT_EQ(scan_lan(scan)->runs.size(), 1u);
  EXPECT_EQ(announcer->counts().answers, 0u);
}

TEST(Lan, LiesAndNoiseAreLeftOut) {
  const uint16_t port = free_port();
  const RunRecord honest = record(known_identity(), "honest");
  const auto announcer = announce(honest, announcer_options(port));
  std::atomic<bool> stop{false};
  std::thread liar([&] {
    const Stranger stranger(port);
    RunRecord forged = record(*Identity::generate(), "forged", 99);
    forged.key = honest.key;
    while (!stop) {
      stranger.send(Bytes(200, std::byte{0x55}), lan_group_v4);
      stranger.send(datagram(forged), lan_group_v4);
      stranger.send(datagram(record(known_identity(), "expired", 100, 1)), lan_group_v4);
      std::this_thread::sleep_for(1ms);
    }
  });
  const auto scan = scan_lan(scan_options(port));
  stop = true;
  liar.join();
  ASSERT_TRUE(scan.ok());
  ASSERT_EQ(scan->runs.size(), 1u);
  EXPECT_EQ(scan->runs[0].record, honest);
  EXPECT_GT(scan->left_out, 0u);
  EXPECT_FALSE(scan->why_left_out.empty());
  EXPECT_GT(announcer->counts().ignored, 0u);
}

// Whoever asks gets no more bytes than he sent, and in a flood hardly any.
TEST(Lan, NoAmplification) {
  const uint16_t port = free_port();
  LanAnnouncerOptions options = announcer_options(port);
  options.answers_per_second = 5;
  options.answer_burst = 5;
  const auto start = steady_clock::now();
  const auto announcer = announce(record(known_identity()), options);
  const Stranger stranger(port);
  constexpr size_t queries = 300;
  for (size_t i = 0; i < queries; ++i) stranger.send(encode_lan_query());
  const auto sizes = stranger.sizes_received(1500ms);
  EXPECT_GE(sizes.size(), 1u);
  const double elapsed_s = std::chrono::duration<double>(steady_clock::now() - start).count();
  EXPECT_LE(static_cast<double>(sizes.size()), 5 + 5 * elapsed_s);
  for (const size_t size : sizes) EXPECT_LE(size, encode_lan_query().size());
  // The rest had one announcement a second.
  EXPECT_GE(announcer->counts().announcements, 2u);
  EXPECT_LE(static_cast<double>(announcer->counts().announcements), 2 + elapsed_s);
  // Short queries and records get nothing.
  std::this_thread::sleep_for(1200ms);
  const Bytes query = encode_lan_query();
  stranger.send(std::span(query).first(8));
  stranger.send(datagram(record(known_identity())));
  EXPECT_TRUE(stranger.sizes_received(200ms).empty());
}

}  // namespace
}  // namespace sporkle::mesh
